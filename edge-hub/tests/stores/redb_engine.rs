//! redb as a second engine, to compare with.

use std::path::Path;

use edge_hub::store::engine::{Engine, EngineError, Op};
use redb::{Database, ReadableDatabase, TableDefinition};

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");

struct Redb(Database);

fn broken(error: impl std::fmt::Display) -> EngineError {
    EngineError::Broken(error.to_string())
}

pub(crate) fn open_redb(directory: &Path) -> Result<Box<dyn Engine>, EngineError> {
    let engine = Redb(Database::create(directory.join("redb")).map_err(broken)?);
    let transaction = engine.0.begin_write().map_err(broken)?;
    transaction.open_table(TABLE).map_err(broken)?;
    transaction.commit().map_err(broken)?;
    Ok(Box::new(engine))
}

impl Engine for Redb {
    fn scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), EngineError> {
        let transaction = self.0.begin_read().map_err(broken)?;
        let table = transaction.open_table(TABLE).map_err(broken)?;
        for pair in table.range(prefix..).map_err(broken)? {
            let (key, value) = pair.map_err(broken)?;
            if !key.value().starts_with(prefix) {
                break;
            }
            visit(key.value(), value.value());
        }
        Ok(())
    }

    fn write(&mut self, batch: &[Op]) -> Result<(), EngineError> {
        let transaction = self.0.begin_write().map_err(broken)?;
        {
            let mut table = transaction.open_table(TABLE).map_err(broken)?;
            for op in batch {
                match op {
                    Op::Put(key, value) => drop(table.insert(&**key, value.as_slice()).map_err(broken)?),
                    Op::Delete(key) => drop(table.remove(&**key).map_err(broken)?),
                }
            }
        }
        transaction.commit().map_err(broken)
    }

    fn sync(&mut self) -> Result<(), EngineError> {
        // Every commit is durable.
        Ok(())
    }
}
