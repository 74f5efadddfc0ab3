#!/busybox sh
# The first process of the guest: reaches the host's root, lays memory over it, and goes on there.
/busybox mount -t devtmpfs dev /dev
/busybox mount -t proc proc /proc
/busybox mount -t sysfs sys /sys
while read -r module; do /busybox insmod "/modules/$module"; done </modules/order
/busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /host
/busybox mount -t tmpfs -o size=75% memory /memory
/busybox mkdir /memory/upper /memory/work
/busybox mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work root /new
for directory in dev proc sys; do /busybox mount --move /$directory /new/$directory; done
/busybox cp /busybox /new/run/busybox 2>/dev/null
for word in $(/busybox cat /new/proc/cmdline); do
    case $word in session=*) session=${word#session=} ;; esac
done
exec /busybox switch_root /new /run/busybox sh "$session"
