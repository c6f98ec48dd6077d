//! Reading what the programs counted, summed over CPUs.

use aya::{maps::PerCpuValues, util::nr_cpus};
use edge_common::{
    tables::{Count, Traffic},
    verdict::{Hook, Verdict},
};

use super::{Datapath, DatapathError, lock};

impl Datapath {
    /// Every hook's count of every verdict.
    pub fn verdicts(&self) -> Result<Vec<(Hook, Verdict, Count)>, DatapathError> {
        let mut rows = Vec::new();
        for hook in Hook::ALL {
            for verdict in Verdict::ALL {
                let counts = self
                    .verdicts
                    .get(&hook.counter(*verdict), 0)
                    .map_err(|error| DatapathError::Table("VERDICTS", Box::new(error)))?;
                let sum = counts.iter().fold(Count::default(), |sum, count| plus(sum, *count));
                rows.push((*hook, *verdict, sum));
            }
        }
        Ok(rows)
    }

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

fn plus(a: Count, b: Count) -> Count {
    Count { packets: a.packets + b.packets, bytes: a.bytes + b.bytes }
}
