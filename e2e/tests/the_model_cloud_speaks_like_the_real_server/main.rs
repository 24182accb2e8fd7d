//! One script of requests of every kind, played to the model cloud and to a real kube-apiserver: both give the same
//! transcript, but for the differences that are listed with a reason.
//!
//! `EYOT_TRANSCRIPTS=FOLDER` keeps both transcripts there.

mod ask;
mod compare;
mod differences;
mod discovery;
mod protobuf;
mod script;
mod servers;
mod step;
mod transcript;

use std::io::Write as _;

use ask::{Answer, Server};
use differences::DIFFERENCES;
use servers::RealCloud;
use transcript::{Entry, transcript};

/// Fewer requests than this are no script of all kinds.
const AT_LEAST: usize = 300;

/// Plays the script; the namespace has to be there before the real server takes the reader's rights.
async fn play(server: &Server, real: bool) -> Vec<Entry> {
    let mut answers: Vec<Answer> = Vec::new();
    server.play(&script::beginning(), &mut answers).await;
    if real {
        RealCloud::prepare(server).await;
    }
    server.play(&script::rest(), &mut answers).await;
    transcript(&answers)
}

fn keep(name: &str, entries: &[Entry]) {
    let Some(folder) = std::env::var_os("EYOT_TRANSCRIPTS") else { return };
    let text = |entry: &Entry| format!("{}\n{:#}\n", entry.request, entry.answer);
    let text: Vec<String> = entries.iter().map(text).collect();
    std::fs::write(std::path::Path::new(&folder).join(name), text.join("\n"))
        .expect("the folder is writable");
}

#[test]
fn the_model_cloud_speaks_like_the_real_server() {
    let name = "the_model_cloud_speaks_like_the_real_server";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let cloud = RealCloud::start(name);
    // Both at the same time: much of the script is waiting for streams to end.
    let (model, real) = runtime.block_on(async {
        let real = async {
            match &cloud {
                Some(cloud) => Some(play(&cloud.server(), true).await),
                None => None,
            }
        };
        tokio::join!(async { play(&servers::model(), false).await }, real)
    });
    keep("model.txt", &model);
    assert!(model.len() >= AT_LEAST, "the script has {} requests", model.len());
    let Some(real) = real else { return };
    keep("real.txt", &real);
    let outcome = compare::compare(&model, &real, DIFFERENCES);
    let met: usize = outcome.met.iter().sum();
    let line = format!(
        "{} requests compared, {} listed differences met in {met} places, {} unlisted",
        real.len(),
        outcome.met.iter().filter(|times| **times > 0).count(),
        outcome.unlisted.len()
    );
    // Past the test harness's capture, so that it can be read in every run.
    writeln!(std::io::stderr(), "{name}: {line}").expect("stderr is open");
    assert!(outcome.unlisted.is_empty(), "{line}:\n{}", outcome.unlisted.join("\n"));
    let stale = DIFFERENCES.iter().zip(&outcome.met).filter(|(_, times)| **times == 0);
    let stale: Vec<&str> = stale.map(|(listed, _)| listed.reason).collect();
    assert!(stale.is_empty(), "listed, but there is no such difference: {stale:?}");
}
