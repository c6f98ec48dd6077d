//! Reading what the programs counted of tunnels, summed over CPUs.

use aya::{maps::PerCpuValues, util::nr_cpus};
use edge_common::tables::{Count, Traffic};

use super::{Datapath, DatapathError, lock};

impl Datapath {
    /// What the kernel carried for the tunnel of a slot.
    pub fn traffic(&self, slot: u32) -> Result<Traffic, DatapathError> {
        let rows = lock(&self.traffic)
            .get(&slot, 0)
            .map_err(|error| DatapathError::Table("TRAFFIC", Box::new(error)))?;
        Ok(rows.iter().fold(Traffic::default(), |sum, row| Traffic {
            connections: sum.connections + row.connections,
            inbound: plus(sum.inbound, row.inbound),
            outbound: plus(sum.outbound, row.outbound),
        }))
    }

    /// Makes a slot ready for another tunnel.
    pub fn clear_traffic(&self, slot: u32) -> Result<(), DatapathError> {
        let failed = |error| DatapathError::Table("TRAFFIC", Box::new(error));
        let cpus = nr_cpus().map_err(|(_, error)| failed(error.into()))?;
        let zeros = PerCpuValues::try_from(vec![Traffic::default(); cpus])
            .map_err(|error| failed(error.into()))?;
        lock(&self.traffic).set(slot, zeros, 0).map_err(failed)
    }
}

/// Both together.
pub(super) fn plus(a: Count, b: Count) -> Count {
    Count { packets: a.packets + b.packets, bytes: a.bytes + b.bytes }
}
