#!/bin/sh
# Packets a second through a raw tunnel, through plain routing and through DNAT, with the kernel's
# own packet generator: the question that `cargo xtask bench live` asks without it.
#
#   bench/pktgen.sh INTERFACE DESTINATION MAC PORT [COUNT]
#
# INTERFACE   where frames are sent from: the far end of the uplink's wire, or a NIC towards it
# DESTINATION the IPv4 address that is dialled: the machine's public one, or a routed server
# MAC         of the next hop
# PORT        the raw tunnel's port, or the server's
# COUNT       frames to send [default: 10000000]
#
# Run it in the namespace of INTERFACE (`ip netns exec NAME …`) and compare the rates for the
# addresses of the paths. pktgen makes UDP only, and a raw tunnel carries TCP: an nftables rule on
# the way out turns each frame into a TCP segment, at the same cost for every path.
set -eu

refuse() {
    echo "pktgen.sh: $1" >&2
    exit 69
}

[ $# -ge 4 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d' >&2; exit 64; }
interface=$1 destination=$2 mac=$3 port=$4 count=${5:-10000000}

[ "$(id -u)" = 0 ] || refuse "only root may use the packet generator; try sudo"
ip link show dev "$interface" >/dev/null 2>&1 ||
    refuse "$interface: no such interface in this namespace; try ip netns exec NAME $0 …"
if [ ! -d /proc/net/pktgen ]; then
    modprobe pktgen 2>/dev/null || true
fi
[ -d /proc/net/pktgen ] || refuse "this kernel has no pktgen (CONFIG_NET_PKTGEN); \
take one that has it, or measure with: cargo xtask bench live"

thread=/proc/net/pktgen/kpktgend_1
[ -e "$thread" ] || thread=/proc/net/pktgen/kpktgend_0
device=/proc/net/pktgen/$interface

tell() {
    echo "$2" >"$1"
    case $(tail -n 1 "$1") in
    *OK*) ;;
    *) refuse "pktgen does not take \"$2\": $(tail -n 1 "$1")" ;;
    esac
}

undo() {
    echo rem_device_all >"$thread"
    nft delete table netdev pktgen 2>/dev/null || true
}
trap undo EXIT

# Into the place of UDP's payload: a header of 20 bytes with the flag ACK.
nft -f - <<EOF || refuse "nftables cannot change frames on their way out of $interface"
table netdev pktgen {
    chain out {
        type filter hook egress device "$interface" priority 0;
        ip protocol udp @th,96,16 set 0x5010 ip protocol set 6
    }
}
EOF
tell "$thread" rem_device_all
tell "$thread" "add_device $interface"
tell "$device" "count $count"
tell "$device" "pkt_size 124"
tell "$device" "delay 0"
# Through the queue, where the rule is; straight to the driver would pass it by.
tell "$device" "xmit_mode queue_xmit"
tell "$device" "dst $destination"
tell "$device" "dst_mac $mac"
tell "$device" "udp_src_min 1024"
tell "$device" "udp_src_max 65535"
tell "$device" "udp_dst_min $port"
tell "$device" "udp_dst_max $port"
echo start >/proc/net/pktgen/pgctrl
grep -E 'pkts-sofar|errors|pps' "$device" || refuse "pktgen gave no result"
