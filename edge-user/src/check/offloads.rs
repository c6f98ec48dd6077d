//! Which work an interface takes off the processor (`man 7 netdevice`, `SIOCETHTOOL`).

use std::{io, os::fd::AsRawFd as _};

use socket2::{Domain, Socket, Type};

use super::Finding;

/// Commands of `linux/ethtool.h` that ask for one switch.
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_GTSO: u32 = 0x1e;
const ETHTOOL_GGRO: u32 = 0x2b;

/// Which of the offloads that matter are on; none for one that the driver does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offloads {
    /// Merging received segments.
    gro: Option<bool>,
    /// Cutting sent segments.
    tso: Option<bool>,
    /// Checksums of sent packets.
    checksum: Option<bool>,
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Asks the interface.
pub(super) fn read(interface: &str) -> Offloads {
    let ask = |command| ask(interface, command).ok();
    Offloads { gro: ask(ETHTOOL_GGRO), tso: ask(ETHTOOL_GTSO), checksum: ask(ETHTOOL_GTXCSUM) }
}

/// Says what they mean for edge.
pub(super) fn judge(interface: &str, driver: &str, offloads: Offloads) -> Finding {
    let name = format!("offloads:{interface}");
    let switches = [
        ("gro", "gro", offloads.gro),
        ("tso", "tso", offloads.tso),
        ("tx-checksum", "tx", offloads.checksum),
    ];
    let words = switches.map(|(word, _, on)| match on {
        Some(true) => format!("{word} on"),
        Some(false) => format!("{word} off"),
        None => format!("{word} unknown"),
    });
    // What comes out of a veth was never cut: there is nothing to merge.
    let matters = |word: &str| !(word == "gro" && driver == "veth");
    let off: Vec<_> = switches
        .iter()
        .filter(|(word, _, on)| *on == Some(false) && matters(word))
        .map(|(_, switch, _)| format!("{switch} on"))
        .collect();
    if off.is_empty() {
        let meaning = "one decision and one copy serve many frames of a stream";
        return Finding::ok(name, words.join(", "), meaning);
    }
    Finding::slower(
        name,
        words.join(", "),
        "each frame of a stream is handled, or finished, by the processor",
        format_args!("ethtool -K {interface} {}, if the device can", off.join(" ")),
    )
}

fn ask(interface: &str, command: u32) -> io::Result<bool> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut value = Value { command, data: 0 };
    // SAFETY: all zeroes is a valid ifreq: an empty name and a null pointer.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero and ends the name.
    let room = request.ifr_name.len() - 1;
    if interface.len() > room {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the descriptor is open, the request is an ifreq whose data points to a live
    // ethtool_value, and for these commands the kernel writes no further than that.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if answer == 0 { Ok(value.data != 0) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::{super::State, *};

    #[test]
    fn what_is_off_and_matters_is_slower_and_the_remedy_turns_it_on() {
        let mut offloads = Offloads { gro: Some(false), tso: Some(true), checksum: None };
        let finding = judge("eth0", "ena", offloads);
        assert_eq!(finding.state, State::Slower);
        assert_eq!(finding.found, "gro off, tso on, tx-checksum unknown");
        assert!(finding.remedy.unwrap().starts_with("ethtool -K eth0 gro on,"));
        assert_eq!(judge("eth0", "veth", offloads).state, State::Ok);
        offloads.checksum = Some(false);
        let remedy = judge("eth0", "veth", offloads).remedy.unwrap();
        assert!(remedy.starts_with("ethtool -K eth0 tx on,"), "{remedy}");
    }

    #[test]
    fn every_machine_has_a_loopback_that_answers() {
        assert_eq!(read("lo").tso, Some(true));
        assert_eq!(read("no-such-if").gro, None);
        assert_eq!(read("a-name-that-is-too-long").gro, None);
    }
}
