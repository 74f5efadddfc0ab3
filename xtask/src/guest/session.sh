# The lines before this one set busybox, modules, directory, and the command as the positional parameters.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
for applet in mount mkdir ln ip hostname cat kill setsid mkfifo modprobe poweroff; do
    alias "$applet=$busybox $applet"
done
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/lock /run/udev /dev/pts /dev/shm /lib/modules
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
ln -sfn /proc/self/fd /dev/fd
ln -sfn fd/0 /dev/stdin
ln -sfn fd/1 /dev/stdout
ln -sfn fd/2 /dev/stderr
mount -o bind "$modules" /lib/modules
ip link set lo up
hostname guest
/sbin/modprobe -q configfs && mount -t configfs configfs /sys/kernel/config

for port in /sys/class/virtio-ports/*; do
    read -r name <"$port/name"
    eval "$name=/dev/${port##*/}"
    mkdir -p /dev/virtio-ports
    ln -sf "/dev/${port##*/}" "/dev/virtio-ports/$name"
done
# Such a port is opened by one process at a time, and what the command starts may open its /dev/stdout again.
mkfifo /run/out /run/err
cat </run/out >"$out" &
out_copy=$!
cat </run/err >"$err" &
err_copy=$!
cd "$directory" || exit
(exec setsid "$@") </dev/null >/run/out 2>/run/err
code=$?
# What the command left running keeps the copies from ending.
for process in /proc/[0-9]*; do
    process=${process#/proc/}
    case $process in
    1 | "$out_copy" | "$err_copy") ;;
    *) kill -9 "$process" ;;
    esac
done 2>/dev/null
wait "$out_copy" "$err_copy"
echo "$code" >"$status"
cd /
[ -b /dev/vda ] && $busybox umount -a -t ext4
$busybox sync
poweroff -f
