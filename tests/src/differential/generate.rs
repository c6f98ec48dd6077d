//! Frames out of a seed.

use etherparse::EtherType;
use rand::{RngExt, SeedableRng, rngs::SmallRng, seq::IndexedRandom};

use super::{
    damage,
    ends::{Ends, Pair},
};
use crate::packets::{
    around::{Around, GENEVE},
    build::{ethernet, tagged},
    damage::Way,
    plan::{ACK, Body, FIN, Plan, RST, SYN, mss},
    scene::Region,
};

/// Makes the same frames for the same seed.
pub struct Generator {
    rng: SmallRng,
    ends: Ends,
    region: Region,
}

const FLAGS: &[u8] = &[
    ACK,
    ACK,
    ACK,
    SYN,
    SYN,
    SYN | ACK,
    SYN | ACK,
    FIN | ACK,
    RST,
    RST | ACK,
    SYN | FIN,
    SYN | RST,
    0,
    0xff,
];
const SIZES: &[u16] =
    &[0, 1, 536, 1220, 1279, 1280, 1281, 1299, 1300, 1301, 1440, 1460, 8960, 65_535];
const ETHER_TYPES: &[u16] = &[0x0800, 0x86dd, 0x0806, 0x8100, 0x88a8, 0x88cc, 0x8847, 0x05dc, 0];

impl Generator {
    /// For one way of packets.
    pub fn new(seed: u64, way: Way, region: Region) -> Self {
        Self { rng: SmallRng::seed_from_u64(seed), ends: Ends::new(way, region), region }
    }

    /// The next frame.
    pub fn frame(&mut self) -> Vec<u8> {
        let mut frame = match self.rng.random_range(0..100) {
            0..3 => self.noise(),
            3..5 => tagged(&self.plan().build(), 100),
            5..25 => self.error().build(),
            25..60 => self.brought().unwrap_or_else(|| self.plan().build()),
            _ => self.plan().build(),
        };
        if self.rng.random_bool(0.45) {
            damage::damage(&mut frame, &mut self.rng);
        }
        frame
    }

    fn noise(&mut self) -> Vec<u8> {
        let EtherType(kind) = EtherType(*ETHER_TYPES.choose(&mut self.rng).expect("types"));
        let bytes = self.bytes(120);
        let mut frame = ethernet(kind, &bytes);
        if let Some(version) = frame.get_mut(14) {
            *version = *[0x45, 0x46, 0x60, *version].choose(&mut self.rng).expect("versions");
        }
        frame
    }

    /// What another host brings, in whatever hosts put around it.
    fn brought(&mut self) -> Option<Vec<u8>> {
        let (host, plan) = if self.rng.random_bool(0.2) {
            let (host, error) = self.ends.brought_error(&mut self.rng)?;
            (host, self.about(error))
        } else {
            let (host, pair) = self.ends.brought(&mut self.rng)?;
            (host, self.going(pair))
        };
        let mut frame = plan.build();
        if let Some(byte) = frame.get_mut(15).filter(|_| self.rng.random_bool(0.3)) {
            // ECN of either family; the checksum does not notice.
            *byte |= self.rng.random_range(0..4) * *[1, 16].choose(&mut self.rng).expect("bits");
        }
        if self.region == Region::Direct && self.rng.random_bool(0.9) {
            return Some(frame);
        }
        if self.rng.random_bool(0.1) {
            damage::damage(&mut frame, &mut self.rng);
        }
        (frame.len() >= 14).then(|| self.around(host).wrap(&frame))
    }

    fn around(&mut self, host: usize) -> Around {
        let from = if self.rng.random_bool(0.9) { host } else { self.rng.random_range(0..3) };
        let (v6, port) = (self.rng.random(), self.rng.random());
        let mut around = Around::new(from, 0, v6, port, self.region);
        if self.rng.random_bool(0.1) {
            around.traffic_class = self.rng.random();
        }
        match self.rng.random_range(0..40) {
            0 => around = around.keyed(Region::KEYS[0]),
            1 => around = around.keyed(Region::KEYS[1]),
            2 => around = around.keyed(*b"no key  "),
            3 => (around.first, around.flags, around.options) = (0, 0, Vec::new()),
            4 => around.first ^= 1 << self.rng.random_range(0..8),
            5 => around.flags ^= 1 << self.rng.random_range(0..8),
            6 => around.region ^= 1 << self.rng.random_range(0..24),
            7 => around.reserved = self.rng.random(),
            8 => around.kind = Some([0x65, 0x58]),
            9 => around.kind = Some([0x08, 0x00]),
            10 if !around.options.is_empty() => {
                let at = self.rng.random_range(0..12);
                around.options[at] ^= 1;
            }
            11 if !v6 => around.from = "198.51.100.7".parse().expect("an address"),
            12 if !v6 => around.to = "192.0.2.10".parse().expect("an address"),
            _ => {}
        }
        around
    }

    fn plan(&mut self) -> Plan {
        let pair = self.ends.pair(&mut self.rng);
        self.going(pair)
    }

    fn going(&mut self, pair: Pair) -> Plan {
        let body = match self.rng.random_range(0..20) {
            0..16 => self.tcp(),
            16..18 => Body::Udp,
            _ => self.icmp(),
        };
        let payload = self.payload();
        self.between(pair, body, &payload)
    }

    fn error(&mut self) -> Plan {
        let error = self.ends.error(&mut self.rng);
        self.about(error)
    }

    fn about(&mut self, (outer, quoted): (Pair, Pair)) -> Plan {
        // What is carried between hosts is UDP, all else that errors are about is TCP.
        let tcp = quoted.1.port() != GENEVE || self.rng.random_bool(0.1);
        let body = if tcp == self.rng.random_bool(0.9) { self.tcp() } else { Body::Udp };
        let payload = self.payload();
        let quoted = self.between(quoted, body, &payload);
        let mut quote = quoted.build().split_off(14);
        if self.rng.random_bool(0.15) {
            damage::damage_header(&mut quote, &mut self.rng);
        }
        if self.rng.random_bool(0.7) {
            quote.truncate(self.rng.random_range(0..80));
        }
        let body = self.icmp();
        self.between(outer, body, &quote)
    }

    fn between(&mut self, (source, destination): Pair, body: Body, payload: &[u8]) -> Plan {
        let mut plan = Plan::between(source, destination, body, payload);
        if self.rng.random_bool(0.04) {
            let options: &[&[u8]] =
                &[&[1; 4], &[148, 4, 0, 0], &[7, 7, 4, 0, 0, 0, 0, 0], &[1; 40]];
            plan = plan.ip_options(options.choose(&mut self.rng).expect("options"));
        }
        if self.rng.random_bool(0.04) {
            let offset = *[0, 0, 1, 8, 0x1fff].choose(&mut self.rng).expect("offsets");
            plan = plan.fragment(offset, self.rng.random());
        }
        if self.rng.random_bool(0.08) {
            for _ in 0..self.rng.random_range(1..=6) {
                let kind = *[0, 0, 43, 60, 51].choose(&mut self.rng).expect("kinds");
                let long = self.rng.random_bool(0.1);
                let words = if long { self.rng.random_range(1..=80) } else { 1 };
                plan = plan.long_extension(kind, words);
            }
        }
        plan
    }

    fn tcp(&mut self) -> Body {
        let flags = *FLAGS.choose(&mut self.rng).expect("flags");
        let has_options = flags & SYN != 0 || self.rng.random_bool(0.2);
        let options = if has_options { self.tcp_options() } else { Vec::new() };
        let (sequence, acknowledged) = (self.number(), self.number());
        Body::Tcp { flags, sequence, acknowledged, window: self.rng.random(), options }
    }

    fn number(&mut self) -> u32 {
        let edge = *[0, 1, u32::MAX - 1, u32::MAX].choose(&mut self.rng).expect("numbers");
        if self.rng.random_bool(0.2) { edge } else { self.rng.random() }
    }

    /// What a SYN carries, and what none should: options of no length, beyond the end, doubled.
    fn tcp_options(&mut self) -> Vec<u8> {
        let mut options = Vec::new();
        for _ in 0..self.rng.random_range(0..6) {
            let one: &[u8] = match self.rng.random_range(0..24) {
                0..10 => {
                    let edge = *SIZES.choose(&mut self.rng).expect("sizes");
                    let size = if self.rng.random_bool(0.8) { edge } else { self.rng.random() };
                    &mss(size)
                }
                10..14 => &[1; 3][..self.rng.random_range(1..=3)],
                14..16 => &[4, 2],
                16..18 => &[3, 3, 7],
                18 => &[8, 10, 1, 2, 3, 4, 5, 6, 7, 8],
                19 => &[34, 3, 9],
                20 => &[2, 3, 255],
                21 => &[5, 0],
                22 => &[8, 255],
                _ => &[0],
            };
            options.extend_from_slice(one);
        }
        options.truncate(40);
        options
    }

    fn icmp(&mut self) -> Body {
        let kinds = [0, 1, 1, 2, 2, 3, 3, 3, 3, 4, 5, 8, 11, 11, 12, 127, 128, 129, 135];
        let kind = *kinds.choose(&mut self.rng).expect("kinds");
        let code = *[0, 0, 1, 4].choose(&mut self.rng).expect("codes");
        Body::Icmp { kind, code, rest: [0, 0, 5, 0x78] }
    }

    fn payload(&mut self) -> Vec<u8> {
        match self.rng.random_range(0..100) {
            // What just fits a way, or just does not.
            0..3 => vec![0; self.rng.random_range(1200..=1400)],
            3..6 => self.bytes(1400),
            _ => self.bytes(40),
        }
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.rng.random_range(0..=most)];
        if self.rng.random_bool(0.8) {
            self.rng.fill(&mut bytes[..]);
        }
        bytes
    }
}
