//! The first read of a collection waits for it and is answered with it; 429 is for a cloud that does not answer.

use crate::rig::{CONFIG_MAPS, Informer, Rig, run};

#[test]
fn a_first_list_and_a_first_get_are_not_told_to_come_again() {
    run(async {
        let mut rig = Rig::new();
        rig.start_hub().await;
        // Another collection shows that the hub has reached the cloud.
        rig.heal_seen().await;
        let pod = rig.pod();
        for path in [CONFIG_MAPS.to_owned(), format!("{CONFIG_MAPS}?resourceVersion=0&limit=500")] {
            let (status, list) = pod.get(&path).await.unwrap();
            assert_eq!((status, list["items"].as_array().map(Vec::len)), (200, Some(2)), "{path}: {list}");
        }
        assert_eq!(pod.get(&format!("{CONFIG_MAPS}/a")).await.unwrap().0, 200);
        let mut informer = Informer::new(pod);
        informer.until(&[("a", "1"), ("b", "1")]).await;
        assert_eq!(informer.refusals, 0);
    });
}
