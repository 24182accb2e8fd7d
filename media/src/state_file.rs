//! The file that keeps an engine's state over a restart of its container: one word. It lies in a volume of the pod, so that it
//! goes with the pod.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use media_core::state::State;
use tokio::sync::watch;

use crate::engine::Standing;

/// Longest content that is looked at.
const MAX_BYTES: usize = 64;

/// The state that the file keeps; of an engine that never ran, without a file, the first one.
///
/// # Errors
/// The file cannot be read, or holds no state: an engine that was to end must not come back by mistake.
pub fn read(path: &Path) -> io::Result<State> {
    let text = match fs::read(path) {
        Ok(bytes) if bytes.len() <= MAX_BYTES => bytes,
        Ok(_) => return Err(broken()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
        Err(error) => return Err(error),
    };
    let word = String::from_utf8(text).map_err(|_| broken())?;
    State::parse(word.trim()).ok_or_else(broken)
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "holds no state; remove it and the engine begins anew")
}

/// Writes each state that is to outlive the process, until the engine is gone.
pub async fn keep(path: PathBuf, mut standing: watch::Receiver<Standing>) {
    loop {
        let now = *standing.borrow_and_update();
        if now.outlives_the_process {
            let to = path.clone();
            // A disk that hangs holds up nobody but this task.
            let written = tokio::task::spawn_blocking(move || write(&to, now.state)).await;
            if let Ok(Err(error)) = written {
                // The state is true in the engine; what is lost is its memory beyond a restart.
                tracing::error!(path = %path.display(), %error, "cannot keep the engine's state");
            }
        }
        if standing.changed().await.is_err() {
            return;
        }
    }
}

fn write(path: &Path, state: State) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, format!("{}\n", state.as_str()))?;
    fs::File::open(&new)?.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_as_it_was_written_and_nothing_else_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state");
        assert_eq!(read(&path).ok(), Some(State::Initialised));
        for state in State::ALL {
            write(&path, state).expect("written");
            assert_eq!(read(&path).ok(), Some(state));
        }
        for wrong in [&b"gone"[..], b"", &[0xff; 3], &[b'a'; 100]] {
            fs::write(&path, wrong).expect("written");
            assert_eq!(read(&path).map_err(|error| error.kind()).err(), Some(io::ErrorKind::InvalidData));
        }
    }
}
