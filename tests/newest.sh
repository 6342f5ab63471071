#!/usr/bin/env bash
# The tests with the newest Python that is supported, Debian 13's, in a root folder of its own: as root on Debian.
#   tests/newest.sh FOLDER COMMAND      FOLDER: some 10 GB, kept for the next time; COMMAND: as `make test`
set -euo pipefail
root=$(realpath --canonicalize-missing "$1")

if [ ! -e "$root/usr/bin/python3.13" ]; then
  dpkg -s mmdebstrap > /dev/null 2>&1 || apt-get install -y --no-install-recommends mmdebstrap
  mmdebstrap --variant=minbase --include=python3,python3-venv,git,make,ca-certificates,procps trixie "$root"
fi
cp /etc/resolv.conf /etc/hosts "$root/etc"
mkdir -p "$root/pedalign"
git archive HEAD | tar --extract --directory "$root/pedalign" --touch

# In a mount namespace: nothing stays mounted.
unshare --mount bash -euc '
  root=$1
  mount -t proc none "$root/proc"
  mount --rbind /dev "$root/dev"
  mount --bind -o ro /etc/ssl "$root/etc/ssl"
  exec chroot "$root" env PATH=/usr/bin:/bin bash -euc "cd /pedalign; git init --quiet; $2"
' _ "$root" "${2:-make test}"
