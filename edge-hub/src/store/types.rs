//! What callers hand to a store and are told by it: names of blobs, options, what came back, health and errors.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use edge_hub_core::collection::{CollectionSpec, Object, Tombstone, Watermark};

use super::{engine::EngineOpener, key::AtRestKey, sled_engine::open_sled};

/// What a blob is, which decides who may be dropped first when the disk is full.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlobClass {
    /// A ServiceAccount token issued by the API server. Node-critical.
    Token,
    /// What the API server said a principal may do. Node-critical.
    Access,
    /// Keys and certificates of the hub itself, signing keys of the issuer. Node-critical.
    Key,
    /// A Lease of this node, answered while cut. Never evicted.
    Lease,
    /// A single answer kept by its path (a GET of something that is no collection).
    Single,
    /// Discovery, version and OpenAPI documents.
    Discovery,
    /// An event or another write that waits for the cloud. First to go on a full disk.
    Event,
    /// Under which inputs of filters clients were shown what they hold. Never evicted.
    Filter,
    /// What the kubelet said of its pods while cut, and which versions clients were told for it. Node-critical.
    Overlay,
}

impl BlobClass {
    /// Every class, in the order of the byte that stands for it on disk.
    pub const ALL: [Self; 9] = [
        Self::Token,
        Self::Access,
        Self::Key,
        Self::Lease,
        Self::Single,
        Self::Discovery,
        Self::Event,
        Self::Filter,
        Self::Overlay,
    ];

    /// True for the classes that the boot snapshot keeps.
    pub fn is_critical(self) -> bool {
        matches!(self, Self::Token | Self::Access | Self::Key | Self::Overlay)
    }

    /// Whether its records are packed. What cannot be fetched again stays as hubs of before can read it.
    pub(super) fn is_packed(self) -> bool {
        matches!(self, Self::Single | Self::Discovery)
    }

    pub(super) fn code(self) -> u8 {
        match self {
            Self::Token => 0,
            Self::Access => 1,
            Self::Key => 2,
            Self::Lease => 3,
            Self::Single => 4,
            Self::Discovery => 5,
            Self::Event => 6,
            Self::Filter => 7,
            Self::Overlay => 8,
        }
    }

    pub(super) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// The name of a blob.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobKey {
    /// What it is.
    pub class: BlobClass,
    /// Which one; any bytes, at most 64 KiB. Not visible on disk.
    pub key: Box<[u8]>,
}

/// One collection as it came back from disk.
#[derive(Clone, Debug)]
pub struct RecoveredCollection {
    /// Which one.
    pub spec: CollectionSpec,
    /// Its last durable watermark. When `complete` is false it says no more than how old the objects are:
    /// do not resume a watch from it.
    pub watermark: Option<Watermark>,
    /// Every object whose record held, in no particular order.
    pub objects: Vec<Arc<Object>>,
    /// Every tombstone whose record held.
    pub tombstones: Vec<Tombstone>,
    /// There is a watermark, and count, digest and every record held: this is the state of the collection at
    /// the watermark. When false the objects are genuine, but some may be missing or out of date.
    pub complete: bool,
    /// The engine was lost, this came from the boot snapshot, and newer state is known to have existed (or
    /// nothing is known about it). A `complete` collection is then complete as of its own, older watermark.
    pub rolled_back: bool,
}

/// Everything that came back from disk.
#[derive(Debug, Default)]
pub struct Recovered {
    /// All known collections.
    pub collections: Vec<RecoveredCollection>,
    /// All blobs whose record and digest held.
    pub blobs: Vec<(BlobKey, Bytes)>,
    /// The blobs are genuine, but newer ones of the same keys may have existed. Those of the class `Access` have
    /// then been dropped: what was allowed once may have been taken back.
    pub blobs_in_doubt: bool,
    /// What was found damaged, in words for a log.
    pub quarantined: Vec<String>,
}

/// How to open a store.
#[derive(Clone)]
pub struct StoreOptions {
    /// Where; created with mode 0700 when missing. Belongs to one store at a time.
    pub directory: PathBuf,
    /// Key for everything at rest.
    pub key: AtRestKey,
    /// Live bytes above which evictable data is dropped.
    pub max_bytes: u64,
    /// Which collections a node cannot start without: kept in the boot snapshot and never evicted.
    pub critical: fn(&CollectionSpec) -> bool,
    /// How often the boot snapshot is renewed, when something changed.
    pub snapshot_interval: Duration,
    /// The size of the engine's files below which they are not compacted, in bytes.
    pub compaction_floor: u64,
    /// How long opening the engine may take before it counts as lost.
    pub open_timeout: Duration,
    /// The engine; `open_sled` in production.
    pub engine: EngineOpener,
}

impl StoreOptions {
    /// Defaults: 1 GiB, nothing critical, a boot snapshot every 5 minutes, compaction from 32 MiB, 30 s to open.
    pub fn new(directory: PathBuf, key: AtRestKey) -> Self {
        Self {
            directory,
            key,
            max_bytes: 1 << 30,
            critical: |_| false,
            snapshot_interval: Duration::from_secs(300),
            compaction_floor: 32 << 20,
            open_timeout: Duration::from_secs(30),
            engine: open_sled,
        }
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// Why a store could not be opened, or something could not be made durable.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process (or another store of this one) holds the directory.
    #[error("the store {} is in use by another process", .0.display())]
    Locked(PathBuf),
    /// The directory was written with another key. It was left untouched.
    #[error("the store {} was sealed with another key; give the right key, or move the directory away", .0.display())]
    WrongKey(PathBuf),
    /// The file system refused.
    #[error("{action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The answer.
        #[source]
        source: std::io::Error,
    },
    /// The engine could not even be created afresh.
    #[error("storage engine: {0}")]
    Engine(String),
    /// What was waited for is still only in memory; the store tries again by itself.
    #[error("not durable yet: {0}")]
    NotDurable(String),
    /// The store was closed before it was durable.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

/// The condition of a store.
#[derive(Clone, Debug, Default)]
pub struct StoreHealth {
    /// Age of the oldest change that is not durable yet; zero when all is.
    pub lag: Duration,
    /// The directory could not be opened yet: everything is in memory alone, and opening it is tried again.
    pub memory_only: bool,
    /// How long the writer has been inside one disk operation, opening included.
    pub busy: Duration,
    /// The last failure that has not been followed by a success.
    pub last_error: Option<String>,
    /// No space: changes are kept in memory, and evictable data was dropped.
    pub full: bool,
    /// The file was given up after a failed fsync; a fresh one waits to be refilled.
    pub failed: bool,
    /// `Store::needs_refill` has something to say.
    pub needs_refill: bool,
    /// Bytes of the directory's files at the last checkpoint.
    pub bytes_on_disk: u64,
    /// Bytes of sealed live records.
    pub live_bytes: u64,
    /// Records found damaged since open.
    pub quarantined: u64,
    /// Records dropped for want of space since open.
    pub evicted: u64,
    /// Groups committed since open.
    pub commits: u64,
}

/// What the store lost and wants to be given again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refill {
    /// Collections to apply anew: `Reset`, every `Put` and `Delete`, `Watermark`.
    pub collections: Vec<CollectionSpec>,
    /// Blobs of these classes should be put anew, then `Store::blobs_refilled` called.
    pub blobs: Vec<BlobClass>,
}
