//! What a traced program tells of a decision, and of which decisions somebody wants to hear.
//!
//! Nothing of this outlives the daemon that loaded the programs: both sides of the ring buffer are
//! always of one build.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    address::{Address, Endpoint},
    decide::{Arrival, Outcome, block_owner, current, inside},
    packet::{Headers, Packet, TCP},
    tables::Tables,
    verdict::{Hook, Verdict},
};

/// One decision.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Event {
    /// Nanoseconds since the machine started, its sleep included (`CLOCK_BOOTTIME`).
    pub time: u64,
    /// Who sent the packet, as it came: of one between hosts, what is inside. All zero where its
    /// headers could not be read.
    pub source: Endpoint,
    /// To whom.
    pub destination: Endpoint,
    /// The other name of one end: of a public destination the tunnel's container, of a source
    /// that is a raw tunnel's port the public endpoint. All zero without either.
    pub beyond: Endpoint,
    /// [`Hook`], as a number.
    pub hook: u32,
    /// [`Verdict`], as a number.
    pub verdict: u32,
    /// What IP carries, by its IANA number; 0 where the headers could not be read.
    pub protocol: u32,
    /// The interface that it came in by.
    pub ifindex: u32,
    /// The interface that the hook sent it to; 0 if it did not.
    pub out: u32,
    /// The region's other host that brought it or that it goes to; 0 without one.
    pub host: u32,
    /// Bytes of the frame as it came, link header included.
    pub bytes: u32,
    /// Whose other name it is: `OF_DESTINATION`, `OF_SOURCE`, or 0.
    pub beyond_of: u32,
    /// Always zero.
    pub reserved: u32,
}

/// Which decisions are told. One row, written by the daemon.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Filter {
    /// Until when, by the clock of [`Event::time`]: the daemon puts it off for as long as somebody
    /// listens, so that nothing is told for long if the daemon is killed.
    pub until: u64,
    /// A bit for each verdict, by its number.
    pub verdicts: u64,
    /// Of a container: its addresses. All zero for everybody's.
    pub addresses: [Address; 2],
    /// Its host-side veth; 0 where it has none here.
    pub ifindex: u32,
    /// Of so many that pass the filter, one is told, by each CPU.
    pub sample: u32,
}

/// A CPU's notes between the beginning of a program and its end.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Notes {
    /// What is going to be told.
    pub event: Event,
    /// Events that found the ring buffer full.
    pub lost: u64,
    /// Events that passed the filter since the last one that was told.
    pub passed: u32,
    /// 0 if this packet is not to be told of.
    pub wanted: u32,
}

const _: () = assert!(Verdict::COUNT <= u64::BITS, "a filter has a bit for each verdict");

impl Filter {
    /// Every verdict.
    pub const ALL_VERDICTS: u64 = u64::MAX;

    /// Whether everything passes, so that a packet is sampled before anything is read of it.
    #[inline(always)]
    pub const fn is_open(&self) -> bool {
        self.verdicts == Self::ALL_VERDICTS && !self.is_of_container()
    }

    /// Whether an event passes.
    #[inline(always)]
    pub fn passes(&self, event: &Event) -> bool {
        self.verdicts >> (event.verdict & 63) & 1 != 0
            && (!self.is_of_container() || self.concerns(event))
    }

    #[inline(always)]
    const fn is_of_container(&self) -> bool {
        self.addresses[0].last() != 0 || self.addresses[1].last() != 0
    }

    /// By its wire, too: what a container sends may have any source.
    #[inline(always)]
    fn concerns(&self, event: &Event) -> bool {
        let by_wire =
            self.ifindex != 0 && (event.ifindex == self.ifindex || event.out == self.ifindex);
        by_wire
            || self.names(&event.source)
            || self.names(&event.destination)
            || self.names(&event.beyond)
    }

    #[inline(always)]
    fn names(&self, end: &Endpoint) -> bool {
        end.address.last() != 0
            && (end.address == self.addresses[0] || end.address == self.addresses[1])
    }
}

impl Notes {
    /// Whether it is the turn of one more that passed the filter.
    #[inline(always)]
    pub const fn turn(&mut self, filter: &Filter) -> bool {
        self.passed = self.passed.wrapping_add(1);
        if self.passed < filter.sample {
            return false;
        }
        self.passed = 0;
        true
    }

    /// A packet begins.
    #[inline(always)]
    pub fn begin(&mut self, filter: &Filter, hook: Hook, ifindex: u32) {
        self.wanted = (!filter.is_open() || self.turn(filter)).into();
        if self.wanted != 0 {
            self.event = Event { hook: hook as u32, ifindex, ..Event::default() };
        }
    }

    /// Its end: whether it is to be told. `outcome` is noted.
    #[inline(always)]
    pub fn end(&mut self, filter: &Filter) -> bool {
        self.event.time < filter.until
            && (filter.is_open() || filter.passes(&self.event) && self.turn(filter))
    }
}

impl Event {
    /// [`Event::beyond`] is the container behind a tunnel.
    pub const OF_DESTINATION: u32 = 1;
    /// [`Event::beyond`] is what the outside sees of a container's port.
    pub const OF_SOURCE: u32 = 2;

    /// As the ring buffer has it.
    #[cfg(any(test, feature = "user"))]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::read_from_bytes(bytes).ok()
    }

    /// What the frame says of itself.
    #[inline(always)]
    pub fn read<P: Packet>(&mut self, packet: &P) {
        if let Ok(headers) = Headers::parse(packet) {
            self.note(&headers);
        }
    }

    /// What the packet says that another host brought.
    #[inline(always)]
    pub fn read_inside<P: Packet>(&mut self, packet: &P, arrival: Arrival) {
        self.host = arrival.host();
        if let Ok(headers) = Headers::parse_at(packet, arrival.at(), arrival.v4()) {
            self.note(&headers);
        }
    }

    #[inline(always)]
    fn note(&mut self, headers: &Headers) {
        self.source = headers.sender();
        self.destination = headers.receiver();
        self.protocol = headers.protocol().into();
    }

    /// What was decided.
    #[inline(always)]
    pub fn decided(&mut self, outcome: &Outcome) {
        self.verdict = outcome.verdict as u32;
        self.out = outcome.ifindex;
        if outcome.way != 0 {
            self.host = outcome.way >> 8;
        }
    }

    /// What the tables say beyond what the packet does.
    #[inline(always)]
    pub fn look_up<T: Tables>(&mut self, tables: &T) {
        let Some(settings) = current(tables) else { return };
        let mut host = 0;
        if self.protocol == u32::from(TCP) {
            if let Some(row) = tables.tunnel(&self.destination) {
                (self.beyond, self.beyond_of) = (row.container, Self::OF_DESTINATION);
                host = row.host;
            } else if let Some(row) = tables.forward(&self.source)
                && row.is_raw()
            {
                (self.beyond, self.beyond_of) = (row.public, Self::OF_SOURCE);
                host = row.gateway;
            }
        }
        let to = &self.destination.address;
        if host == 0 && inside(settings, to) {
            let owner =
                if to.is_v4() { block_owner(tables, settings, to) } else { Some(to.host()) };
            host = owner.unwrap_or(0);
        }
        if self.host == 0 && host != settings.host {
            self.host = host;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn end(address: &str, port: u32) -> Endpoint {
        Endpoint { address: address.parse::<IpAddr>().unwrap().into(), port }
    }

    fn of_container() -> Filter {
        Filter {
            until: u64::MAX,
            verdicts: Filter::ALL_VERDICTS,
            addresses: [end("100.64.0.2", 0).address, end("fdaa::1:1:0:0:2", 0).address],
            ifindex: 7,
            sample: 1,
        }
    }

    #[test]
    fn a_container_is_known_by_its_addresses_and_its_wire() {
        let filter = of_container();
        let others = end("192.0.2.1", 80);
        for (event, passes) in [
            (Event { source: end("100.64.0.2", 9), ..Event::default() }, true),
            (Event { destination: end("fdaa::1:1:0:0:2", 9), ..Event::default() }, true),
            (Event { destination: others, beyond: end("100.64.0.2", 9), ..Event::default() }, true),
            (Event { source: others, ifindex: 7, ..Event::default() }, true),
            (Event { source: others, out: 7, ..Event::default() }, true),
            (Event { source: others, ifindex: 8, ..Event::default() }, false),
            // Headers that could not be read are nobody's.
            (Event::default(), false),
        ] {
            assert_eq!(filter.passes(&event), passes, "{event:?}");
        }
        let elsewhere = Filter { ifindex: 0, ..filter };
        assert!(!elsewhere.passes(&Event { source: others, ..Event::default() }));
    }

    #[test]
    fn what_a_filter_drops_takes_no_turn() {
        let filter = Filter {
            verdicts: 1 << Verdict::I6pn as u32,
            addresses: Default::default(),
            sample: 3,
            ..of_container()
        };
        let mut notes = Notes::default();
        let mut told = 0;
        for round in 0..9 {
            for verdict in [Verdict::Egress, Verdict::I6pn] {
                notes.begin(&filter, Hook::TcContainer, 7);
                assert_eq!(notes.wanted, 1);
                notes.event.verdict = verdict as u32;
                let tells = notes.end(&filter);
                assert!(!tells || verdict == Verdict::I6pn, "round {round}");
                told += u32::from(tells);
            }
        }
        assert_eq!(told, 3);
    }

    #[test]
    fn without_a_filter_a_packet_is_sampled_before_it_is_read() {
        let filter = Filter { addresses: Default::default(), sample: 4, ..of_container() };
        let mut notes = Notes::default();
        let mut told = 0;
        for _packet in 0..12 {
            notes.begin(&filter, Hook::TcUplink, 3);
            told += u32::from(notes.wanted != 0 && notes.end(&filter));
        }
        assert_eq!(told, 3);
    }

    #[test]
    fn nothing_is_told_after_the_deadline() {
        let filter = Filter { until: 5, ..of_container() };
        let mut notes = Notes::default();
        notes.begin(&filter, Hook::TcContainer, 7);
        notes.event.time = 5;
        assert!(!notes.end(&filter));
        notes.event.time = 4;
        assert!(notes.end(&filter));
    }
}
