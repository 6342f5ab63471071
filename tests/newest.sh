#!/usr/bin/env bash
# What is committed, with the newest Python that is supported: Debian 13's, in a root folder of its own. As root on Debian.
#   tests/newest.sh FOLDER COMMAND      FOLDER: some 10 GB, kept for the next time; COMMAND: as `make test`
set -euo pipefail
root=$(realpath --canonicalize-missing "$1")

if [ ! -e "$root/usr/bin/python3.13" ]; then
  dpkg -s mmdebstrap > /dev/null 2>&1 || (apt-get update && apt-get install -y --no-install-recommends mmdebstrap)
  mmdebstrap --variant=minbase --include=python3,python3-venv,git,make,ca-certificates,procps trixie "$root"
fi
cp /etc/resolv.conf /etc/hosts "$root/etc"
git -C "$root/pedalign" pull --quiet 2> /dev/null || git clone --quiet . "$root/pedalign"

# In a mount namespace: nothing stays mounted. Its root is pivoted, since what is merely chrooted may have no namespaces.
unshare --mount bash -euc '
  mount --bind "$1" "$1"
  mount -t proc none "$1/proc"
  mount --rbind /dev "$1/dev"
  mount --bind -o ro /etc/ssl "$1/etc/ssl"
  mkdir --parents "$1/before"
  cd "$1"
  pivot_root . before
  exec chroot . env PATH=/usr/bin:/bin bash -euc "umount --lazy /before; cd /pedalign; $2"
' _ "$root" "$2"
