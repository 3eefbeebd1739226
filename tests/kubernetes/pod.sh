#!/usr/bin/env bash
# Run a command as a container of the chart runs: with a read-only root, the given mounts only, user and group 10001, no
# capabilities, and no new privileges. Needs root. Call:
#
#     unshare --mount pod.sh FOLDER PYTHON SOURCE:TARGET[:ro]... -- COMMAND
#
# FOLDER is used for the root, and PYTHON is a folder that the user may enter although it is in another one's home.
set -euo pipefail
folder=$1 python=$2
shift 2
mount -t tmpfs tmpfs "$folder"
mkdir "$folder"/{upper,work,root}
root="$folder/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$root"
for system in dev proc sys; do mount --rbind "/$system" "$root/$system"; done
while [ "$1" != -- ]; do
    IFS=: read -r source target mode <<<"$1"
    mkdir -p "$root$target"
    mount --bind "$source" "$root$target"
    if [ "$mode" = ro ]; then mount -o remount,bind,ro "$root$target"; fi
    shift
done
shift
while [ "$python" != / ]; do
    chmod o+x "$root$python" # in the overlay alone
    python=$(dirname "$python")
done
mount -o remount,ro "$root"
exec /usr/sbin/chroot "$root" setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --inh-caps=-all \
    --bounding-set=-all -- "$@"
