#!/bin/sh
# Usage: root.sh make SUITE ROOT [PACKAGE...]
#        root.sh run ROOT [FOLDER...] <SCRIPT
#        root.sh boot ROOT [FOLDER...] <SCRIPT
#        root.sh archives SUITE
#
# Makes a Debian system of SUITE (bookworm is Debian 12, trixie 13) with packages in the
# folder ROOT, which is emptied first, and runs a script of sh in it as root. It has this
# machine's way to Debian's archive, and FOLDERs of it by the same paths, to read. What the
# script starts ends with it. With boot, the system's own systemd has been started before, and
# by it all units that are enabled. With network=--net, nothing comes from elsewhere meanwhile, and
# no port is taken from this machine. With hostname=NAME it is called so. Both need root.
# Where apt has SUITE from is printed as lines for sources.list.
set -eu

fail() {
    echo "root.sh: $*" >&2
    exit 1
}

# The archives of this system, with the other suite's name.
archives_of() {
    this=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    # The names between parentheses are apt's.
    # shellcheck disable=SC2016
    apt-get indextargets --format 'deb $(SITE) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' |
        sed -n -E "s/ $this(-updates|-security)? main$/ $1\1 main/p" | sort -u
}

# Mirror, proxies, CAs, names.
make_root() {
    suite=$1 root=$2
    shift 2
    archives=$(archives_of "$suite")
    mirror=$(echo "$archives" | sed -n "s/^deb \(.*\) $suite main$/\1/p")
    rm -rf --one-file-system "$root"
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    # Without a mirror it takes Debian's.
    # shellcheck disable=SC2086
    debootstrap --variant=minbase --include=ca-certificates "$suite" "$root" $mirror >"$log" ||
        { tail "$log" >&2; fail "debootstrap failed"; }
    [ -z "$archives" ] || echo "$archives" >"$root/etc/apt/sources.list"
    apt-config dump Acquire | grep -v '^Acquire::\(IndexTargets\|Changelogs\)' >"$root/etc/apt/apt.conf.d/90host"
    cat >>"$root/etc/apt/apt.conf.d/90host" <<'END'
Acquire::Retries "3";
APT::Get::Assume-Yes "true";
APT::Install-Recommends "false";
Dpkg::Use-Pty "false";
END
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    # A name with a dot, or sendmail waits for a minute at each start.
    { cat /etc/hosts; echo '127.0.1.1 node1.example.org node1'; } >"$root/etc/hosts"
    if [ -d /usr/local/share/ca-certificates ]; then
        cp -r /usr/local/share/ca-certificates "$root/usr/local/share/"
    fi
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    run_root "$root" >"$log" 2>&1 <<END || { tail -n 40 "$log" >&2; fail "apt-get failed"; }
update-ca-certificates
apt-get update
[ $# -eq 0 ] || apt-get install $*
END
}

run_root() {
    cgroup=
    enter "${network:-}" "$@"
}

# systemd wants a control group of its own: one below that of this process.
boot_root() {
    [ -x "$1/lib/systemd/systemd" ] || fail "there is no systemd in $1"
    work=$(mktemp -d)
    mkdir "$work/cgroups"
    cgroup=
    trap '[ ! -d "$cgroup" ] || find "$cgroup" -depth -type d -exec rmdir {} +
        umount "$work/cgroups" 2>/dev/null || :
        rm -r --one-file-system "$work"' EXIT
    mount -t cgroup2 cgroup2 "$work/cgroups" || fail "systemd cannot be booted here: cgroup2 cannot be mounted"
    cgroup=$work/cgroups$(sed -n 's/^0:://p' /proc/self/cgroup)/mailaffinity.$$
    mkdir "$cgroup" || fail "systemd cannot be booted here: no control group can be made"
    status=0
    enter "--cgroup ${network:-}" "$@" 4>"$work/up" || status=$?
    [ -s "$work/up" ] || fail "systemd cannot be booted here: it did not come up within a minute, or ended (status $status)"
    return $status
}

# Usage: enter NAMESPACES ROOT [FOLDER...] <SCRIPT
enter() {
    namespaces=$1
    shift
    # The first sh is in the new control group, the second in the new namespaces, and the
    # last one in the new root too.
    # shellcheck disable=SC2016,SC2086
    cgroup=$cgroup sh -euc '
        [ -z "$cgroup" ] || echo 0 >"$cgroup/cgroup.procs"
        exec unshare "$@"
    ' sh --mount --pid --uts --ipc $namespaces --fork --kill-child sh -euc '
        root=$1
        hostname "${hostname:-node1}"
        ip link set lo up
        mount --rbind "$root" "$root"
        mount -t proc proc "$root/proc"
        if [ -z "$cgroup" ]; then
            mount --rbind /sys "$root/sys"
        else
            # systemd leaves the kernel of this machine as it is, and has control groups alone.
            mount --bind -o ro /sys "$root/sys"
            mount --bind -o ro "$root/proc/sys" "$root/proc/sys"
            mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
        fi
        shift
        for tree; do
            mkdir -p "$root$tree"
            mount --bind -o ro "$tree" "$root$tree"
        done
        mount -t tmpfs dev "$root/dev"
        for device in null zero full random urandom tty; do
            mknod -m 666 "$root/dev/$device" "c" $(stat -c "0x%t 0x%T" "/dev/$device")
        done
        mkdir "$root/dev/pts" "$root/dev/shm"
        mount -t devpts -o ptmxmode=666,newinstance devpts "$root/dev/pts"
        ln -s pts/ptmx "$root/dev/ptmx"
        ln -s /proc/self/fd "$root/dev/fd"
        ln -s fd/0 "$root/dev/stdin"
        ln -s fd/1 "$root/dev/stdout"
        ln -s fd/2 "$root/dev/stderr"
        # In a root that is changed to by chroot, programs could have no namespaces.
        cd "$root"
        pivot_root . .
        umount -l .
        set -- env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
            DEBIAN_FRONTEND=noninteractive SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
            ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
            sh -eu -s
        [ -n "$cgroup" ] || exec "$@"
        # This process becomes systemd, which ends with the status of the script.
        exec 3<&0
        {
            tries=0
            until systemctl is-system-running --wait 2>/dev/null | grep -qx -e running -e degraded; do
                tries=$((tries + 1))
                [ $tries -lt 600 ] || exec systemctl poweroff --force --force
                sleep 0.1
            done
            echo up >&4
            status=0
            "$@" <&3 3<&- 4>&- || status=$?
            systemctl exit $status
        } &
        exec env -i PATH="$PATH" container=mailaffinity \
            /lib/systemd/systemd systemd.hostname="$(hostname)" <&- 3<&- 4>&-
    ' sh "$@"
}

what=${1:-}
[ $# -lt 2 ] || shift
case $what in
archives) archives_of "$@" ;;
make | run | boot)
    [ "$(id -u)" -eq 0 ] || fail "run this as root: it changes the root"
    "${what}_root" "$@"
    ;;
*) fail "make, run, boot or archives?" ;;
esac
