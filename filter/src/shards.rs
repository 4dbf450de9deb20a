//! The embedded memory in the host's shared data.
//!
//! Worker threads are separate VMs that see the same shared data. A shard is read with its version and written only if the
//! version is still the same, so counting is exact across threads; whoever lost the race reads again.

use proxy_wasm::hostcalls;

use tollgate_shared::store::StoreError;
use tollgate_shared::store::memory::Shards;
use tollgate_shared::store::shard::Shard;

/// How many shards there are. Shared data can neither expire nor be deleted, so their number is fixed.
pub(crate) const COUNT: u32 = 1024;

/// Shards that all worker threads share.
#[derive(Debug)]
pub(crate) struct SharedShards;

impl SharedShards {
    /// Creates the shards that are missing.
    ///
    /// A value that does not exist has no version to compare, so two threads could both create it and one lose what it
    /// counted. The host configures a plugin on its main thread before any worker, which is when this runs first.
    pub(crate) fn create() -> Self {
        for index in 0..COUNT {
            let name = name(index);
            if let Ok((None, None)) = hostcalls::get_shared_data(&name) {
                let _ = hostcalls::set_shared_data(&name, Some(&[]), None);
            }
        }
        Self
    }
}

impl Shards for SharedShards {
    fn update(&mut self, index: u32, change: &mut dyn FnMut(&mut Shard)) -> Result<(), StoreError> {
        let name = name(index);
        for _ in 0..ATTEMPTS {
            let (bytes, version) = hostcalls::get_shared_data(&name).map_err(|_| StoreError::Contention)?;
            let mut shard = Shard::from_bytes(bytes.unwrap_or_default());
            change(&mut shard);
            if !shard.changed() || hostcalls::set_shared_data(&name, Some(shard.as_bytes()), version).is_ok()
            {
                return Ok(());
            }
        }
        Err(StoreError::Contention)
    }
}

fn name(index: u32) -> String {
    format!("tollgate.shard.{index}")
}

/// Each lost race means that another thread got through, so few are ever needed.
const ATTEMPTS: u32 = 1000;
