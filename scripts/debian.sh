# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# shellcheck shell=sh
#
# To be sourced. Lets apt-get read Debian suites that the machine's sources do not list.

# Prints the mirror of this machine's release, from the lists that apt has. Takes apt-get options.
find_mirror()
{
	# shellcheck disable=SC2016 # apt-get's variables
	apt-get "$@" indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' \
		'Created-By: Packages' | sed -n "s/ $release main\$//p" | head -n 1
}

# read_suites <suite>...: makes the apt commands of this process read only these suites, from that
# mirror. They write to $scratch; the machine's sources are unchanged. Fails without such a mirror.
read_suites()
{
	release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	scratch=$(mktemp -d)
	trap 'rm -rf "$scratch"' EXIT
	chmod 755 "$scratch"
	mkdir -p "$scratch/machine/partial" "$scratch/parts" "$scratch/lists/partial" \
		"$scratch/cache/archives/partial"
	mirror=$(find_mirror)
	if [ -z "$mirror" ]; then
		# The lists were not read yet, or were removed.
		apt-get -qq -o Dir::State::Lists="$scratch/machine" update || return 1
		mirror=$(find_mirror -o Dir::State::Lists="$scratch/machine")
	fi
	[ -n "$release" ] && [ -n "$mirror" ] || return 1
	keys=/usr/share/keyrings/debian-archive-keyring.gpg
	for suite; do
		echo "deb [signed-by=$keys] $mirror $suite main"
	done >"$scratch/parts/suites.list"
	cat >"$scratch/apt.conf" <<-END
		Dir::Etc::SourceList "/dev/null";
		Dir::Etc::SourceParts "$scratch/parts";
		Dir::State::Lists "$scratch/lists";
		Dir::Cache "$scratch/cache";
		Acquire::Languages "none";
		Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
	END
	export APT_CONFIG="$scratch/apt.conf"
}
