//! A pod, and the node itself, after what only others may read (rows 04, 05, 06, and the leak of 53).

use bytes::Bytes;
use e2e::cloud::LinkState;
use e2e::cloud::client::Client;
use e2e::cloud::model::{Gvr, Principal, Rule};
use http::header::ACCEPT;
use serde_json::json;
use tokio::task::JoinSet;

use crate::attacker::{CANARY, SECRET, SECRETS, ask, post, scene, shows};
use crate::rig::{CONFIG_MAPS, run};

/// Every form in which an API server shows an object.
const FORMATS: [&str; 8] = [
    "application/json",
    "application/vnd.kubernetes.protobuf",
    "application/json;as=Table;v=v1;g=meta.k8s.io",
    "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    "application/yaml",
    "application/cbor",
    "*/*",
];

/// Sends all of them at the same time on one connection; in their order, code and body.
async fn all(client: &Client, paths: &[String]) -> Vec<(u16, Bytes)> {
    let client = client.clone().over_one_connection();
    // Dialled once for all.
    ask(&client, "GET", "/version").await;
    let mut asked = JoinSet::new();
    for (index, path) in paths.iter().cloned().enumerate() {
        let client = client.clone();
        asked.spawn(async move { (index, ask(&client, "GET", &path).await) });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// Forms of asking for ConfigMaps that mean, or seem to mean, other objects than `a`.
fn forms() -> Vec<String> {
    let selectors = [
        "",
        "fieldSelector=metadata.name%3Da",
        "fieldSelector=metadata.name%3D%3Da",
        "fieldSelector=metadata.name%21%3Da",
        "fieldSelector=metadata.name%3Db",
        "fieldSelector=metadata.name%3D",
        "fieldSelector=metadata.name%3Da%2Cmetadata.name%3Db",
        "fieldSelector=metadata.name%3Da%2Cmetadata.name%21%3Da",
        "fieldSelector=metadata.name%3Da%2Cmetadata.namespace%3Ddefault",
        "fieldSelector=metadata.namespace%3Ddefault",
        "fieldSelector=metadata.name%3Da&fieldSelector=metadata.name%3Db",
        "fieldSelector=metadata.name%3Db&fieldSelector=metadata.name%3Da",
        "fieldSelector=&fieldSelector=metadata.name%3Da",
        "fieldSelector=metadata.name%3Da&fieldSelector=",
        "fieldSelector=metadata.name%3Da%00",
        "fieldSelector=metadata.name%3D%20a",
        "fieldSelector=metadata.name%3Da%5C%2Cb",
        "fieldSelector=metadata.name%253Da",
        "fieldSelector=Metadata.Name%3Da",
        "labelSelector=app",
        "labelSelector=app%3Dhidden",
        "labelSelector=%21app",
        "labelSelector=app%20in%20(hidden)",
        "labelSelector=app&fieldSelector=metadata.name%3Da",
        "name=a",
        "FieldSelector=metadata.name%3Da",
    ];
    let modes = [
        "",
        "resourceVersion=0",
        "resourceVersion=0&limit=1",
        "resourceVersion=0&resourceVersionMatch=NotOlderThan",
        "watch=true&resourceVersion=0&timeoutSeconds=1",
        "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1",
        "watch=false&watch=true&resourceVersion=0&timeoutSeconds=1",
        "watch&resourceVersion=0&timeoutSeconds=1",
    ];
    let mut forms = Vec::new();
    for selector in selectors {
        for mode in modes {
            forms.push(format!("{CONFIG_MAPS}?{selector}&{mode}"));
        }
        forms.push(format!("/api/v1/configmaps?{selector}&resourceVersion=0"));
    }
    for path in [
        "/api/v1/watch/configmaps",
        "/api/v1/watch/namespaces/default/configmaps",
        "/api/v1/watch/namespaces/default/configmaps/b",
        "/api/v1/watch/namespaces/default/configmaps/a",
        "/api/v1/namespaces/default/configmaps/b",
        "/api/v1/namespaces/default/configmaps/a",
        "/api/v1/namespaces/kube-system/configmaps/hidden",
    ] {
        for query in ["resourceVersion=0", "timeoutSeconds=1&fieldSelector=metadata.name%3Da", "watch=1"] {
            forms.push(format!("{path}?{query}&timeoutSeconds=1"));
        }
    }
    forms
}

#[test]
fn a_right_to_one_name_shows_that_one_in_every_form_of_asking() {
    run(async {
        let (rig, operator) = scene().await;
        let secret = json!({"metadata": {"labels": {"app": "hidden"}}, "data": {"v": CANARY}});
        rig.cloud.merge(&Gvr::core("configmaps"), "default", "b", &secret).unwrap();
        rig.cloud.add_token("picky-token", Principal::new("picky", &[]));
        let right = Rule::allow("picky", &["get", "list", "watch"], &["configmaps"]);
        rig.cloud.allow(right.in_namespace("default").named("a"));
        // A wide collection of somebody else stands all the while.
        let wide = operator.watch("/api/v1/configmaps?watch=true&resourceVersion=0").await.unwrap();
        let forms = forms();
        assert!(forms.len() >= 222, "{}", forms.len());
        let direct = all(&rig.direct(None).with_token("picky-token"), &forms).await;
        let hub = all(&rig.nobody().with_token("picky-token"), &forms).await;
        for ((form, (wanted, right)), (status, body)) in forms.iter().zip(&direct).zip(&hub) {
            assert!(!shows(right), "the model shows it: {form}");
            assert!(!shows(body), "{form}");
            assert_eq!(status, wanted, "{form}: {}", String::from_utf8_lossy(body));
        }
        assert!(direct.iter().filter(|(status, _)| *status == 200).count() > 10, "some are allowed");
        assert!(direct.iter().filter(|(status, _)| *status == 403).count() > 100, "most are not");
        drop(wide);
        rig.cut(LinkState::Refused).await;
        let hub = all(&rig.nobody().with_token("picky-token"), &forms).await;
        for ((form, (wanted, _)), (status, body)) in forms.iter().zip(&direct).zip(&hub) {
            assert!(!shows(body), "{form} while cut");
            assert!(*wanted == 200 || *status != 200, "{form} while cut: {status}");
        }
    });
}

/// Reads of what the pod may not see.
fn reads() -> Vec<String> {
    let mut reads = Vec::new();
    for query in ["", "?resourceVersion=0", "?watch=true&resourceVersion=0&timeoutSeconds=1", "?limit=1"] {
        for path in [
            SECRETS,
            "/api/v1/secrets",
            "/api/v1/namespaces/kube-system/secrets",
            "/api/v1/configmaps",
            "/api/v1/namespaces/kube-system/configmaps",
            "/api/v1/pods",
            "/api/v1/nodes",
        ] {
            reads.push(format!("{path}{query}"));
        }
    }
    for path in [
        SECRET,
        "/api/v1/namespaces/kube-system/secrets/s",
        "/api/v1/namespaces/kube-system/configmaps/hidden",
        "/api/v1/namespaces/default/pods/q",
        "/api/v1/nodes/n2",
    ] {
        reads.push(path.to_owned());
        reads.push(format!("{path}?resourceVersion=0"));
    }
    reads
}

#[test]
fn what_others_have_fetched_is_shown_in_no_format_to_who_may_not_read_it() {
    run(async {
        let (rig, operator) = scene().await;
        // Held in every format, and whole answers of single objects, too.
        for format in FORMATS {
            let operator = operator.clone().with_header(ACCEPT, format);
            for path in ["/api/v1/secrets?resourceVersion=0", SECRET, "/api/v1/nodes/n2"] {
                ask(&operator, "GET", path).await;
            }
        }
        let reads = reads();
        for format in FORMATS {
            let direct = all(&rig.direct_pod().with_header(ACCEPT, format), &reads).await;
            let hub = all(&rig.pod().with_header(ACCEPT, format), &reads).await;
            for ((path, (wanted, _)), (status, body)) in reads.iter().zip(&direct).zip(&hub) {
                assert_eq!((status, wanted), (&403, &403), "{format} {path}");
                assert!(!shows(body), "{format} {path}");
            }
        }
        rig.cut(LinkState::Refused).await;
        for format in FORMATS {
            let hub = all(&rig.pod().with_header(ACCEPT, format), &reads).await;
            for (path, (status, body)) in reads.iter().zip(&hub) {
                assert!(matches!(status, 403 | 406 | 429 | 503), "{format} {path} while cut: {status}");
                assert!(!shows(body), "{format} {path} while cut");
            }
        }
    });
}

#[test]
fn the_node_gets_of_others_what_the_node_authorizer_lets_it_have() {
    run(async {
        let (rig, _) = scene().await;
        let reads: Vec<String> = [
            SECRET,
            "/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Ds&resourceVersion=0",
            "/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Ds&watch=true&timeoutSeconds=1",
            SECRETS,
            "/api/v1/secrets?resourceVersion=0",
            "/api/v1/namespaces/kube-system/secrets/s?resourceVersion=0",
            "/api/v1/namespaces/kube-system/configmaps/hidden",
            "/api/v1/configmaps?resourceVersion=0",
            "/api/v1/namespaces/default/pods/q",
            "/api/v1/pods?resourceVersion=0",
            "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2&resourceVersion=0",
            "/api/v1/pods?fieldSelector=spec.nodeName%21%3Dn1&resourceVersion=0",
            "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2&watch=true&resourceVersion=0&timeoutSeconds=1",
            "/api/v1/nodes/n2",
            "/api/v1/nodes?resourceVersion=0",
            "/api/v1/nodes?fieldSelector=metadata.name%3Dn2&resourceVersion=0",
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n2",
            "/api/v1/namespaces/default/serviceaccounts/other",
        ]
        .map(str::to_owned)
        .into();
        let direct = all(&rig.direct(Some(&rig.node)), &reads).await;
        let hub = all(&rig.kubelet(), &reads).await;
        for ((path, (wanted, _)), (status, body)) in reads.iter().zip(&direct).zip(&hub) {
            assert_eq!((status, wanted), (&403, &403), "{path}");
            assert!(!shows(body), "{path}");
        }
        rig.cut(LinkState::Refused).await;
        let hub = all(&rig.kubelet(), &reads).await;
        for (path, (status, body)) in reads.iter().zip(&hub) {
            assert!(matches!(status, 403 | 404 | 429 | 503), "{path} while cut: {status}");
            assert!(!shows(body), "{path} while cut");
        }
    });
}

#[test]
fn lists_that_a_pod_may_not_make_show_nothing_while_cut_nor_after_the_heal() {
    run(async {
        let (rig, _) = scene().await;
        rig.cut(LinkState::Refused).await;
        let lists: Vec<String> =
            (0..100).map(|n| format!("{SECRETS}?resourceVersion=0&labelSelector=%21k{n}")).collect();
        for (path, (status, body)) in lists.iter().zip(all(&rig.pod(), &lists).await) {
            assert!(matches!(status, 403 | 429 | 503), "{path}: {status}");
            assert!(!shows(&body), "{path}");
        }
        rig.heal().await;
        rig.heal_seen().await;
        for (path, (status, body)) in lists.iter().zip(all(&rig.pod(), &lists).await) {
            assert_eq!(status, 403, "{path}");
            assert!(!shows(&body), "{path}");
        }
        let body = Bytes::from_static(b"{}");
        assert!(post(&rig.pod(), "POST", SECRETS, "application/json", body).await.0 >= 400);
    });
}
