//! One frame again: what a failure prints is what the next run reads.

use std::{env, fmt};

use data_encoding::HEXLOWER;
use edge_common::verdict::Hook;

use super::Lane;
use crate::packets::scene::Region;

const VARIABLE: &str = "EDGE_FRAME";

/// A frame at a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// How packets go to other hosts.
    pub region: Region,
    /// Where it is judged.
    pub hook: Hook,
    /// The interface it comes in by; matters to containers' frames only.
    pub ingress: u32,
    /// Its bytes.
    pub frame: Vec<u8>,
}

impl Replay {
    /// The one that the environment asks for, if any.
    pub fn asked_for() -> Option<Self> {
        let text = env::var(VARIABLE).ok()?;
        let words: Vec<_> = text.split('/').collect();
        let [region, hook, ingress, hex] = words[..] else {
            panic!("{VARIABLE} is REGION/HOOK/INTERFACE/HEX, not {text}");
        };
        let region = Region::ALL.into_iter().find(|one| format!("{one:?}") == region);
        let hook = Hook::ALL.iter().find(|one| one.label() == hook);
        Some(Self {
            region: region.unwrap_or_else(|| panic!("{VARIABLE} names no region: {text}")),
            hook: *hook.unwrap_or_else(|| panic!("{VARIABLE} names no hook: {text}")),
            ingress: ingress.parse().expect("an interface's number"),
            frame: HEXLOWER.decode(hex.as_bytes()).expect("a frame in lower-case hex"),
        })
    }

    /// Panics unless the lane judges it as the model does.
    pub fn check(&self, lane: &mut Lane) {
        if let Err(difference) = lane.check(self) {
            panic!("{difference}\nagain: {self}");
        }
    }
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hook, hex) = (self.hook.label(), HEXLOWER.encode(&self.frame));
        let Self { region, ingress, .. } = self;
        let frame = format!("{region:?}/{hook}/{ingress}/{hex}");
        write!(f, "{VARIABLE}={frame} cargo xtask test judged_as_the_model")
    }
}
