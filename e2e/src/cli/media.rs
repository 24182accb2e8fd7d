//! `eyot lab media`: a media engine on a node, and tokens for it.

use std::time::Duration;

use clap::Args;

use super::words::{Dir, say};
use crate::lab::{Grant, Lab, LabError};

/// Put a media engine on a node, or leave the one that is there, and print a token for it
///
/// The engine is a pod by the manifests of deploy/, with an image that is made of this program. Pages publish and play at
/// the URL that is printed. `--token` prints another token and asks nobody, so that it works while the node is cut off.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The node's name
    node: String,
    /// Whom the token is for; a publisher with the same one takes a stream over
    #[arg(long, default_value = "ann")]
    subject: String,
    /// The room that the token is for
    #[arg(long, default_value = "hall")]
    room: String,
    /// A stream that the token lets publish, `*` for all; with neither this nor --play it lets do everything in the room
    #[arg(long, value_name = "STREAM")]
    publish: Vec<String>,
    /// A stream that the token lets play, `*` for all
    #[arg(long, value_name = "STREAM")]
    play: Vec<String>,
    /// How long the token holds
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400)]
    seconds: u64,
    /// Print a token and nothing else
    #[arg(long)]
    token: bool,
    #[command(flatten)]
    dir: Dir,
}

pub(super) fn run(arguments: Arguments) -> Result<(), LabError> {
    let Arguments { node, subject, room, mut publish, mut play, seconds, token: only_token, dir } = arguments;
    let lab = Lab::open(&dir.dir)?;
    if publish.is_empty() && play.is_empty() {
        (publish, play) = (vec!["*".to_owned()], vec!["*".to_owned()]);
    }
    let lifetime = Duration::from_secs(seconds);
    let token = lab.media_token(&Grant { subject, room: room.clone(), publish, play, lifetime })?;
    if only_token {
        say(&token);
        return Ok(());
    }
    let engine = lab.start_media(&node)?;
    say(&format!(
        "The media engine of {node} is ready: http://{engine}

A camera needs https:// or localhost, so serve the engine's page from here, and open it in a browser on this machine:
  python3 -m http.server --bind 127.0.0.1 --directory media/src 8000 &
  http://127.0.0.1:8000/page.html#engine=http://{engine}&room={room}&stream=cam&publish=1&play=1&token={token}"
    ));
    Ok(())
}
