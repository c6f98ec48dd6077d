//! Wires between namespaces.

use std::{fs, process::Command, time::Duration};

use crate::{
    netns::NetNs,
    process::{Start, wait_for},
};

/// A veth pair; it goes with this guard.
#[derive(Debug)]
pub struct Wire {
    ends: [End; 2],
}

#[derive(Debug)]
struct End {
    netns: NetNs,
    name: String,
}

impl Wire {
    /// Connects two namespaces. Addresses carry their prefix length, IPv4 and IPv6 mixed, and
    /// may be used at once: nothing waits for duplicate address detection.
    #[track_caller]
    pub fn new(
        a: &NetNs,
        a_name: &str,
        a_addresses: &[&str],
        b: &NetNs,
        b_name: &str,
        b_addresses: &[&str],
    ) -> Self {
        let peer = ["type", "veth", "peer", "name", b_name, "netns", b.name()];
        a.ip(&[&["link", "add", a_name][..], &peer].concat());
        let end = |netns: &NetNs, name: &str| End { netns: netns.clone(), name: name.to_owned() };
        let wire = Self { ends: [end(a, a_name), end(b, b_name)] };
        for (end, addresses) in wire.ends.iter().zip([a_addresses, b_addresses]) {
            for address in addresses {
                end.address(address);
            }
            end.netns.ip(&["link", "set", &end.name, "up"]);
        }
        for end in &wire.ends {
            end.wait_up();
        }
        wire
    }

    /// Sets the MTU of both ends.
    #[track_caller]
    pub fn mtu(self, mtu: u32) -> Self {
        for end in &self.ends {
            end.netns.ip(&["link", "set", &end.name, "mtu", &mtu.to_string()]);
        }
        self
    }

    /// Lets both ends send whole frames with finished checksums, as a NIC would: an XDP
    /// program at the other end sees what it would see on a real wire.
    #[track_caller]
    pub fn offloads_off(self) -> Self {
        for end in &self.ends {
            let mut command = end.netns.command("ethtool");
            command.args(["-K", &end.name]);
            command.args(["tx", "off", "tso", "off", "gso", "off", "gro", "off"]);
            command.output_of().ok();
        }
        self
    }

    /// Cuts the wire: both ends lose their carrier.
    #[track_caller]
    pub fn cut(&self) {
        self.ends[0].netns.ip(&["link", "set", &self.ends[0].name, "down"]);
    }

    /// Mends a cut wire. Routes of the end that was down are not restored by the kernel.
    #[track_caller]
    pub fn mend(&self) {
        self.ends[0].netns.ip(&["link", "set", &self.ends[0].name, "up"]);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let End { netns, name } = &self.ends[0];
        // A test may have removed it, which is what is wanted; this runs while tests unwind.
        drop(Command::new("ip").args(["-n", netns.name(), "link", "del", name]).output());
    }
}

impl End {
    /// The kernel brings a link up, and gives it a link-local address, in its own time: what a
    /// test finds changed later must not be that.
    #[track_caller]
    fn wait_up(&self) {
        let setting = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", self.name);
        let ipv6 = self.netns.enter(|| fs::read_to_string(setting).is_ok_and(|on| on == "0\n"));
        wait_for(&format!("{} to be up", self.name), Duration::from_secs(10), || {
            let shown = self.netns.ip(&["-brief", "address", "show", "dev", &self.name]);
            (shown.contains(" UP ") && shown.contains("fe80:") == ipv6).then_some(())
        });
    }

    #[track_caller]
    fn address(&self, address: &str) {
        let mut words = vec!["address", "add", address, "dev", &self.name];
        if address.contains(':') {
            words.push("nodad");
        }
        self.netns.ip(&words);
    }
}
