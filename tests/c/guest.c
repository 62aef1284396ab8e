/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A kernel for examples/vmm: says how much memory it was given, writes to and reads from the
 * first 64 MiB of it, repeats its command line, and resets the machine. Freestanding, by Linux's
 * 64-bit boot protocol.
 */
#include <stdint.h>

/* Of struct boot_params. */
#define E820_ENTRIES 0x1e8
#define E820_TABLE   0x2d0
#define COMMAND_LINE 0x228

/* What it writes to. It is itself below, and less is mapped than memory can have. */
#define MIB   (UINT64_C(1) << 20)
#define BEGIN (4 * MIB)
#define SEEN  (64 * MIB)

struct range {
	uint64_t address, size;
	uint32_t type;
} __attribute__((packed));

void run(const uint8_t *parameters);

/* The parameters come in another register than C has them in. */
__asm__(".globl start\n"
	"start: mov %rsi, %rdi\n"
	"jmp run\n");

static void out(uint16_t port, uint8_t byte)
{
	__asm__ volatile("outb %0, %1" : : "a"(byte), "Nd"(port));
}

static void say(const char *text)
{
	while (*text)
		out(0x3f8, (uint8_t)*text++);
}

static void say_number(uint64_t number)
{
	char text[24], *first = text + sizeof(text);

	*--first = '\0';
	do
		*--first = (char)('0' + number % 10);
	while (number /= 10);
	say(first);
}

/* A number of its own in each page, and then a look at whether each is still there. */
static uint64_t count_good(uint64_t begin, uint64_t end)
{
	uint64_t good = 0;

	for (uint64_t at = begin; at < end; at += 4096)
		*(volatile uint64_t *)at = at * 3;
	for (uint64_t at = begin; at < end; at += 4096)
		good += *(volatile uint64_t *)at == at * 3;
	return good * 4096;
}

void run(const uint8_t *parameters)
{
	const struct range *range = (const void *)(parameters + E820_TABLE);
	uint64_t all = 0, good = 0;

	for (uint8_t i = 0; i < parameters[E820_ENTRIES]; i++, range++) {
		uint64_t end = range->address + range->size;

		all += range->size;
		if (range->address >= MIB && range->address < SEEN)
			good += count_good(BEGIN, end < SEEN ? end : SEEN);
	}
	say("memory: ");
	/* The first megabyte has a hole. */
	say_number((all + MIB / 2) / MIB);
	say(" MiB, good: ");
	say_number(good / MIB);
	say(" MiB\ncommand line: ");
	say((const char *)(uint64_t) * (const uint32_t *)(parameters + COMMAND_LINE));
	say("\n");
	out(0x64, 0xfe);
	for (;;)
		__asm__ volatile("hlt");
}
