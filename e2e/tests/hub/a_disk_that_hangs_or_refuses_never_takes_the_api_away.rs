//! A disk that hangs, or that cannot be written any more, never takes the node's API away: a hub that starts on it serves
//! what can be had, says what is wrong, and takes the store in when the disk is back.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

use e2e::cloud::LinkState;
use e2e::lab::skip;
use nix::{sys::stat::Mode, unistd::mkfifo};
use serde_json::Value;

use crate::rig::{CONFIG_MAPS, Informer, Rig, eventually, run};

/// Opening a pipe for writing does not return before somebody reads it: the lock of the store hangs.
fn hang(rig: &Rig) -> PathBuf {
    let lock = rig.state_folder().join("store/lock");
    std::fs::remove_file(&lock).expect("it was there");
    mkfifo(&lock, Mode::S_IRUSR | Mode::S_IWUSR).expect("a pipe");
    lock
}

/// The disk answers again.
fn answer(lock: &Path) -> File {
    File::open(lock).expect("the hub opens the other end")
}

async fn state(rig: &Rig) -> Value {
    rig.status().await["store"]["state"].clone()
}

async fn names(client: &e2e::cloud::client::Client) -> (u16, Vec<String>) {
    let (status, list) = client.get(&format!("{CONFIG_MAPS}?resourceVersion=0")).await.expect("an answer");
    let items = list["items"].as_array().cloned().unwrap_or_default();
    (
        status,
        items.iter().map(|item| item["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect(),
    )
}

async fn stored(rig: &Rig, names_of: &[(&str, &str)]) {
    let mut informer = Informer::new(rig.pod());
    informer.until(names_of).await;
}

#[test]
fn a_hub_that_starts_on_a_disk_that_hangs_serves_from_memory_and_keeps_it_when_the_disk_is_back() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        rig.heal_seen().await;
        stored(&rig, &[("a", "1"), ("b", "1")]).await;
        rig.stop_hub().await;
        let lock = hang(&rig);
        rig.start_hub().await;
        rig.heal_seen().await;
        assert_eq!(state(&rig).await, "memoryOnly");
        rig.put("c", "1");
        stored(&rig, &[("a", "1"), ("b", "1"), ("c", "1")]).await;
        rig.cut(LinkState::Refused).await;
        let all = ["a", "b", "c"].map(str::to_owned).to_vec();
        assert_eq!(names(&rig.pod()).await, (200, all.clone()), "memory alone is enough for a cut");
        let _back = answer(&lock);
        eventually(async || (state(&rig).await == "good").then_some(())).await;
        assert_eq!(names(&rig.pod()).await, (200, all.clone()), "what memory has is newer than the disk");
        rig.stop_hub().await;
        rig.start_hub().await;
        assert_eq!(names(&rig.pod()).await, (200, all), "what came meanwhile is on disk");
        rig.stop_hub().await;
    });
}

#[test]
fn what_a_disk_held_is_served_once_it_answers_also_while_cut() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        rig.heal_seen().await;
        stored(&rig, &[("a", "1"), ("b", "1")]).await;
        rig.cut(LinkState::Refused).await;
        rig.stop_hub().await;
        let lock = hang(&rig);
        rig.start_hub().await;
        assert_eq!(state(&rig).await, "memoryOnly");
        let (status, _) = rig.kubelet().get("/api/v1/nodes/n1").await.expect("the API is there");
        assert!(status == 429 || status == 503, "{status}: it asks for patience");
        let _back = answer(&lock);
        eventually(async || (state(&rig).await == "good").then_some(())).await;
        eventually(async || (names(&rig.pod()).await.0 == 200).then_some(())).await;
        assert_eq!(names(&rig.pod()).await.1, ["a", "b"]);
        let (status, _) = rig.kubelet().get("/api/v1/nodes/n1").await.expect("an answer");
        assert_eq!(status, 200);
        // The collections that came back go on with the cloud.
        let mut informer = Informer::new(rig.pod());
        informer.until(&[("a", "1"), ("b", "1")]).await;
        rig.heal().await;
        rig.heal_seen().await;
        rig.put("a", "2");
        informer.until(&[("a", "2"), ("b", "1")]).await;
        rig.stop_hub().await;
    });
}

/// A file system of its own under the state directory, which can become read-only; `None` where that is not allowed.
struct Disk(PathBuf);

impl Disk {
    fn under(rig: &Rig) -> Option<Self> {
        let folder = rig.state_folder();
        std::fs::create_dir_all(&folder).expect("a folder");
        let mounted = mount(&["-t", "tmpfs", "-o", "size=64m", "tmpfs"], &folder);
        mounted.then_some(Self(folder))
    }

    fn remount(&self, mode: &str) {
        assert!(mount(&["-o", &format!("remount,{mode}")], &self.0), "what was mounted can be remounted");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.0).output());
    }
}

fn mount(options: &[&str], folder: &Path) -> bool {
    Command::new("mount").args(options).arg(folder).output().is_ok_and(|output| output.status.success())
}

#[test]
fn a_hub_on_a_read_only_disk_serves_what_it_can_read_and_keeps_new_things_in_memory() {
    let test = "a_hub_on_a_read_only_disk_serves_what_it_can_read_and_keeps_new_things_in_memory";
    run(async {
        let mut rig = Rig::new();
        let Some(disk) = Disk::under(&rig) else { return skip(test, "mounting a tmpfs needs root") };
        rig.start_hub().await;
        rig.heal_seen().await;
        stored(&rig, &[("a", "1"), ("b", "1")]).await;
        rig.cut(LinkState::Refused).await;
        rig.stop_hub().await;
        disk.remount("ro");
        rig.start_hub().await;
        assert_eq!(state(&rig).await, "memoryOnly");
        assert!(
            rig.status().await["store"]["lastError"].to_string().contains("EROFS"),
            "{}",
            rig.status().await
        );
        let metrics = rig.metrics().await;
        assert!(metrics.contains("hub_store_memory_only 1") && metrics.contains("hub_store_unhealthy 1"));
        assert_eq!(names(&rig.pod()).await, (200, vec!["a".to_owned(), "b".to_owned()]));
        rig.heal().await;
        rig.heal_seen().await;
        rig.put("c", "1");
        stored(&rig, &[("a", "1"), ("b", "1"), ("c", "1")]).await;
        rig.cut(LinkState::Refused).await;
        assert_eq!(names(&rig.pod()).await.1, ["a", "b", "c"]);
        // What waited in memory is written once it can be.
        disk.remount("rw");
        eventually(async || (state(&rig).await == "good").then_some(())).await;
        rig.stop_hub().await;
        rig.start_hub().await;
        assert_eq!(names(&rig.pod()).await, (200, ["a", "b", "c"].map(str::to_owned).to_vec()));
        rig.stop_hub().await;
    });
}
