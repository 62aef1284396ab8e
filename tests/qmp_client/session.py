# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""A session of the published QMP client, qemu.qmp, with a server on a unix socket.

Says what it did. What is not as expected ends it with a traceback.
"""

import asyncio
import sys

from qemu.qmp import EventListener, ExecuteError, QMPClient

MIB = 1 << 20


async def execute(client, command, **arguments):
    """Executes a command, with hyphens for underscores in names of arguments."""
    arguments = {name.replace("_", "-"): value for name, value in arguments.items()}
    answer = await client.execute(command, arguments)
    print(f"{command} {arguments} -> {answer}")
    return answer


async def refused(client, error_class, command, **arguments):
    """Executes a command that has to fail."""
    try:
        await execute(client, command, **arguments)
    except ExecuteError as error:
        print(f"{command} {arguments} -> {error.error_class}: {error}")
        assert error.error_class == error_class, error
    else:
        raise AssertionError(f"{command} was accepted")


async def fill(client):
    """Fills memory in the background, waiting for the last event."""
    size = 256 * MIB
    events = EventListener("X_PREALLOC_PROGRESS")
    with client.listen(events):
        await execute(
            client,
            "object-add",
            qom_type="memory-backend-ram",
            id="ram0",
            size=size,
            prealloc=True,
            prealloc_mode="background",
        )
        async for event in events:
            print(f"event {event['event']} {event['data']}")
            assert event["data"]["id"] == "ram0"
            if event["data"]["status"] != "active":
                break
    status = await execute(client, "x-prealloc-status", id="ram0")
    assert status == {"status": "completed", "done": size, "total": size}
    placement = await client.execute("x-placement", {"id": "ram0"})
    print(f"x-placement: resident {placement['resident']}, nodes {placement['nodes']}")
    assert placement["resident"] == size


async def use(client):
    """Reads, sets, claims and looks at what is there."""
    ram0 = "/objects/ram0"
    assert await execute(client, "qom-get", path=ram0, property="size") == 256 * MIB
    await execute(client, "qom-set", path=ram0, property="dump", value=False)
    assert await execute(client, "qom-get", path=ram0, property="dump") is False
    (memdev,) = await execute(client, "query-memdev")
    assert memdev["id"] == "ram0" and memdev["dump"] is False
    await execute(client, "x-discard", id="ram0", offset=0, length=2 * MIB)
    await execute(client, "x-populate", id="ram0", offset=0, length=2 * MIB)
    await execute(client, "x-claim", id="ram0", owner="vm0")
    await refused(client, "GenericError", "object-del", id="ram0")
    await refused(client, "GenericError", "qom-set", path=ram0, property="size", value=1)
    await refused(client, "DeviceNotFound", "qom-get", path="/objects/ram1", property="size")
    await refused(client, "CommandNotFound", "device_add")


async def main(path):
    """Two connections, one after the other."""
    client = QMPClient("first")
    await client.connect(path)
    await execute(client, "query-version")
    commands = await client.execute("query-commands")
    print(f"{len(commands)} commands")
    await fill(client)
    await use(client)
    await client.disconnect()

    client = QMPClient("second")
    await client.connect(path)
    await execute(client, "x-release", id="ram0")
    await execute(client, "object-del", id="ram0")
    assert await execute(client, "query-memdev") == []
    # One request after the other without waiting: each answer finds its request.
    names = [f"ram{number}" for number in range(20)]
    await asyncio.gather(
        *(
            client.execute("object-add", {"qom-type": "memory-backend-ram", "id": name, "size": MIB})
            for name in names
        )
    )
    memdevs = await client.execute("query-memdev")
    assert sorted(memdev["id"] for memdev in memdevs) == sorted(names)
    await execute(client, "quit")
    try:
        await client.disconnect()
    except EOFError:
        # The server was quicker.
        pass


asyncio.run(main(sys.argv[1]))
