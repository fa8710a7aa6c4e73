#!/bin/sh
# Usage: root.sh make SUITE ROOT [PACKAGE...]
#        root.sh run ROOT [FOLDER...] <SCRIPT
#        root.sh archives SUITE
#
# Makes a Debian system of SUITE (bookworm is Debian 12, trixie 13) with packages in the
# folder ROOT, which is emptied first, and runs a script of sh in it as root. It has this
# machine's way to Debian's archive, and FOLDERs of it by the same paths, to read. What the
# script starts ends with it. With network=--net, nothing comes from elsewhere meanwhile, and
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
    # The first sh is in the new namespaces, the second in the new root too.
    # shellcheck disable=SC2016,SC2086
    unshare --mount --pid --uts --ipc ${network:-} --fork --kill-child sh -euc '
        root=$1
        hostname "${hostname:-node1}"
        ip link set lo up
        mount --rbind "$root" "$root"
        mount -t proc proc "$root/proc"
        mount --rbind /sys "$root/sys"
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
        exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
            DEBIAN_FRONTEND=noninteractive SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
            ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
            sh -eu -s
    ' sh "$@"
}

what=${1:-}
[ $# -lt 2 ] || shift
case $what in
archives) archives_of "$@" ;;
make | run)
    [ "$(id -u)" -eq 0 ] || fail "run this as root: it changes the root"
    "${what}_root" "$@"
    ;;
*) fail "make, run or archives?" ;;
esac
