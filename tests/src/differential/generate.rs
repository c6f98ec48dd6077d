//! Frames out of a seed.

use etherparse::EtherType;
use rand::{RngExt, SeedableRng, rngs::SmallRng, seq::IndexedRandom};

use super::{
    damage,
    ends::{Ends, Pair},
};
use crate::packets::{
    build::{ethernet, tagged},
    damage::Way,
    plan::{ACK, Body, FIN, Plan, RST, SYN, mss},
};

/// Makes the same frames for the same seed.
pub struct Generator {
    rng: SmallRng,
    ends: Ends,
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
    pub fn new(seed: u64, way: Way) -> Self {
        Self { rng: SmallRng::seed_from_u64(seed), ends: Ends::new(way) }
    }

    /// The next frame.
    pub fn frame(&mut self) -> Vec<u8> {
        let mut frame = match self.rng.random_range(0..100) {
            0..3 => self.noise(),
            3..5 => tagged(&self.plan().build(), 100),
            5..30 => self.error().build(),
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

    fn plan(&mut self) -> Plan {
        let pair = self.ends.pair(&mut self.rng);
        let body = match self.rng.random_range(0..20) {
            0..16 => self.tcp(),
            16..18 => Body::Udp,
            _ => self.icmp(),
        };
        let payload = self.payload();
        self.between(pair, body, &payload)
    }

    fn error(&mut self) -> Plan {
        let (outer, quoted) = self.ends.error(&mut self.rng);
        let body = if self.rng.random_bool(0.9) { self.tcp() } else { Body::Udp };
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
        let most = if self.rng.random_bool(0.05) { 1400 } else { 40 };
        self.bytes(most)
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.rng.random_range(0..=most)];
        if self.rng.random_bool(0.8) {
            self.rng.fill(&mut bytes[..]);
        }
        bytes
    }
}
