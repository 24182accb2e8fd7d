//! sled 0.34.7, used the one safe way: small batches each followed by a flush (it deadlocks when much is
//! unflushed), a real fsync of its file (its own flush only starts write-back), one tree, and a small cache.

use std::{fs::File, path::Path};

use super::engine::{Engine, EngineError, Op};

struct Sled {
    db: sled::Db,
    file: File,
}

/// Opens sled in `directory`.
///
/// # Errors
/// sled refused. It may also panic on a damaged file.
pub fn open_sled(directory: &Path) -> Result<Box<dyn Engine>, EngineError> {
    let db = sled::Config::new()
        .path(directory)
        .cache_capacity(4 << 20)
        .mode(sled::Mode::LowSpace)
        .flush_every_ms(None)
        .open()
        .map_err(from_sled)?;
    // The file is found by path: sled gives no handle on it.
    let file = File::open(directory.join("db")).map_err(|error| EngineError::from_io(&error))?;
    File::open(directory)
        .and_then(|handle| handle.sync_all())
        .map_err(|error| EngineError::from_io(&error))?;
    Ok(Box::new(Sled { db, file }))
}

fn from_sled(error: sled::Error) -> EngineError {
    match error {
        sled::Error::Io(error) => EngineError::from_io(&error),
        other => EngineError::Broken(other.to_string()),
    }
}

impl Engine for Sled {
    fn scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), EngineError> {
        for pair in self.db.scan_prefix(prefix) {
            let (key, value) = pair.map_err(from_sled)?;
            visit(&key, &value);
        }
        Ok(())
    }

    fn write(&mut self, batch: &[Op]) -> Result<(), EngineError> {
        let mut sled_batch = sled::Batch::default();
        for op in batch {
            match op {
                Op::Put(key, value) => sled_batch.insert(&**key, value.as_slice()),
                Op::Delete(key) => sled_batch.remove(&**key),
            }
        }
        self.db.apply_batch(sled_batch).map_err(from_sled)?;
        self.db.flush().map_err(from_sled)?;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), EngineError> {
        self.db.flush().map_err(from_sled)?;
        self.file.sync_all().map_err(|error| EngineError::from_io(&error))
    }
}
