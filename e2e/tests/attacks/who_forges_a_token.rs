//! Tokens that nobody issued, or not for this server, this node, this pod or this time (rows 08, 09, 24).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use e2e::cloud::LinkState;
use e2e::cloud::model::{Gvr, TokenSigner as _};
use e2e::cloud::pki::TokenKey;
use serde_json::{Value, json};

use crate::attacker::{ask, scene, shows};
use crate::rig::{CONFIG_MAPS, POD_USER, Rig, eventually, run};

const HOUR: Duration = Duration::from_secs(3600);

fn encode(part: &Value) -> String {
    URL_SAFE_NO_PAD.encode(part.to_string())
}

fn decode(part: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON")
}

/// Forgeries of a true token, by what was tried.
fn forgeries(token: &str, keys: &Value) -> Vec<(&'static str, String)> {
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, signature] = parts[..] else { panic!("a token has three parts") };
    let (true_header, true_claims) = (decode(header), decode(claims));
    let own = TokenKey::new("own").expect("a key");
    let sign = |header: &Value, claims: &Value| {
        let input = format!("{}.{}", encode(header), encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(own.sign(input.as_bytes()));
        format!("{input}.{signature}")
    };
    let with = |changes: Value| {
        let mut header = true_header.clone();
        header.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        header
    };
    let headed = |changes: Value, signature: &str| format!("{}.{claims}.{signature}", encode(&with(changes)));
    // HMAC with what everybody knows of the key.
    let confused = |key: &[u8]| {
        let input = format!("{}.{claims}", encode(&with(json!({"alg": "HS256"}))));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, input.as_bytes())))
    };
    let jwk = &keys["keys"][0];
    let point = ["x", "y"].map(|name| URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap()).concat();
    let changed = |change: fn(&mut Value)| {
        let mut claims = true_claims.clone();
        change(&mut claims);
        claims
    };
    let reworded = |change: fn(&mut Value)| format!("{header}.{}.{signature}", encode(&changed(change)));
    let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let other_signature = |bytes: &[u8]| format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode(bytes));
    vec![
        ("alg none", headed(json!({"alg": "none"}), "")),
        ("alg none with a signature", headed(json!({"alg": "none"}), signature)),
        ("alg nOnE", headed(json!({"alg": "nOnE"}), "")),
        ("no alg", headed(json!({"alg": null}), signature)),
        ("HS256 with the key's document", confused(jwk.to_string().as_bytes())),
        ("HS256 with the key's point", confused(&point)),
        ("HS256 with nothing", confused(b"")),
        ("RS256", headed(json!({"alg": "RS256"}), signature)),
        ("ES384", headed(json!({"alg": "ES384"}), signature)),
        ("no such kid", sign(&with(json!({"kid": "nobodys"})), &true_claims)),
        ("a kid that is a path", sign(&with(json!({"kid": "../../dev/null"})), &true_claims)),
        ("the true kid, another key", sign(&true_header, &true_claims)),
        ("no kid", sign(&with(json!({"kid": null})), &true_claims)),
        ("a jwk of its own", sign(&with(json!({"jwk": own.public_jwk()})), &true_claims)),
        ("a jku of its own", sign(&with(json!({"jku": "https://127.0.0.1:1/keys"})), &true_claims)),
        ("an x5u of its own", sign(&with(json!({"x5u": "https://127.0.0.1:1/c"})), &true_claims)),
        ("crit", headed(json!({"crit": ["exp"], "exp": 1}), signature)),
        ("another subject", reworded(|c| c["sub"] = "system:serviceaccount:kube-system:admin".into())),
        ("another account", reworded(|c| c["kubernetes.io"]["serviceaccount"]["name"] = "admin".into())),
        ("another end", reworded(|c| c["exp"] = 9_999_999_999_u64.into())),
        ("another audience", reworded(|c| c["aud"] = json!(["vault"]))),
        ("another pod", reworded(|c| c["kubernetes.io"]["pod"]["name"] = "q".into())),
        ("a signature of zeros", other_signature(&[0; 64])),
        ("a signature cut short", other_signature(&bytes[..63])),
        ("a signature that is too long", other_signature(&[&bytes[..], &[0]].concat())),
        ("r and s exchanged", other_signature(&[&bytes[32..], &bytes[..32]].concat())),
        ("no signature", format!("{header}.{claims}.")),
        ("two parts", format!("{header}.{claims}")),
        ("four parts", format!("{token}.{signature}")),
        ("five parts", format!("{header}..{claims}..{signature}")),
        ("with padding", format!("{header}.{claims}.{}", URL_SAFE.encode(&bytes))),
        ("another base64", format!("{header}.{claims}.{}!", STANDARD.encode(&bytes))),
        ("20 KB of claims", sign(&true_header, &changed(|c| c["filler"] = "x".repeat(20_000).into()))),
        ("deep claims", format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode("[".repeat(5000)))),
        ("dots", "..".into()),
    ]
}

#[test]
fn a_token_that_nobody_issued_is_nobodys() {
    run(async {
        let (rig, _) = scene().await;
        let token = rig.pod().token().unwrap().to_owned();
        let (_, keys) =
            rig.direct_pod().with_header(http::header::ACCEPT, "*/*").get("/openid/v1/jwks").await.unwrap();
        assert!(keys["keys"][0]["x"].is_string(), "{keys}");
        let forged = forgeries(&token, &keys);
        assert!(forged.len() >= 25);
        let (hub, direct) = (rig.nobody().over_one_connection(), rig.direct(None).over_one_connection());
        let list = format!("{CONFIG_MAPS}?resourceVersion=0");
        for cut in [false, true] {
            if cut {
                rig.cut(LinkState::Refused).await;
            }
            for (what, token) in &forged {
                if !cut {
                    assert_eq!(
                        ask(&direct.clone().with_token(token), "GET", &list).await.0,
                        401,
                        "{what} directly"
                    );
                }
                let (status, body) = ask(&hub.clone().with_token(token), "GET", &list).await;
                // While cut a token of a key that the hub has never seen may be a true one of a new key.
                assert!(status == 401 || cut && status == 503, "{what}, cut {cut}: {status}");
                assert!(!shows(&body), "{what}, cut {cut}");
            }
            assert_eq!(
                ask(&hub.clone().with_token(&token), "GET", &list).await.0,
                200,
                "the true one, cut {cut}"
            );
        }
    });
}

fn bound_to(name: &str) -> Value {
    json!({"kind": "Pod", "apiVersion": "v1", "name": name})
}

#[test]
fn a_true_token_for_something_else_is_judged_as_the_server_judges_it_and_not_more_mildly_while_cut() {
    run(async {
        let (mut rig, _) = scene().await;
        let now = Duration::ZERO;
        let mut tokens = vec![
            (
                "for another audience",
                rig.token(now, &json!({"audiences": ["vault"], "boundObjectRef": bound_to("p")})),
            ),
            ("of another node's pod", rig.token(now, &json!({"boundObjectRef": bound_to("q")}))),
            ("of no pod", rig.token(now, &json!({}))),
            ("that ended", rig.token(2 * HOUR, &json!({"boundObjectRef": bound_to("p")}))),
            (
                "that ended three years ago",
                rig.token(3 * 365 * 24 * HOUR, &json!({"boundObjectRef": bound_to("p")})),
            ),
        ];
        let former =
            ("of a former pod of this name", rig.token(now, &json!({"boundObjectRef": bound_to("p")})));
        rig.cloud.delete(&Gvr::core("pods"), "default", "p").unwrap();
        own_pods(&rig, 0).await;
        let again = json!({"metadata": {"name": "p", "namespace": "default"},
            "spec": {"nodeName": "n1", "serviceAccountName": "reader"}});
        rig.cloud.create(&Gvr::core("pods"), again).unwrap();
        own_pods(&rig, 1).await;
        tokens.push(former);
        let (hub, direct) = (rig.nobody().over_one_connection(), rig.direct(None).over_one_connection());
        let list = format!("{CONFIG_MAPS}?resourceVersion=0");
        let mut wanted = Vec::new();
        for (what, token) in &tokens {
            let (status, _) = ask(&direct.clone().with_token(token), "GET", &list).await;
            let (through, body) = ask(&hub.clone().with_token(token), "GET", &list).await;
            assert_eq!(through, status, "{what}");
            assert!(!shows(&body), "{what}");
            wanted.push(status);
        }
        assert_eq!(wanted, [401, 200, 200, 401, 401, 401], "what the server says");
        let good = rig.pod();
        assert_eq!(ask(&good, "GET", &list).await.0, 200);
        for restart in [false, true] {
            rig.cut(LinkState::Refused).await;
            if restart {
                rig.stop_hub().await;
                rig.start_hub().await;
            }
            // What a hub still remembers of a token that was good a moment ago is not what is asked here.
            for ((what, token), wanted) in tokens.iter().zip(&wanted).filter(|(_, wanted)| **wanted == 401) {
                assert_eq!(
                    ask(&hub.clone().with_token(token), "GET", &list).await.0,
                    *wanted,
                    "{what}, restart {restart}"
                );
            }
            assert_eq!(ask(&good, "GET", &list).await.0, 200, "restart {restart}");
            rig.heal().await;
            rig.heal_seen().await;
        }
    });
}

/// Until the hub knows of so many pods on its node.
async fn own_pods(rig: &Rig, count: usize) {
    eventually(async || {
        let status = rig.status().await;
        let own = status["collections"]
            .as_array()?
            .iter()
            .find(|held| held["collection"].as_str().is_some_and(|name| name.contains("spec.nodeName")))?;
        (own["objects"] == count).then_some(())
    })
    .await;
}

#[test]
fn a_kept_token_is_given_to_nobody_but_who_may_ask_for_it() {
    run(async {
        let (rig, _) = scene().await;
        let path = "/api/v1/namespaces/default/serviceaccounts/reader/token";
        let request = json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": {},
            "spec": {"audiences": ["https://kubernetes.default.svc"], "expirationSeconds": 3607,
                "boundObjectRef": bound_to("p")}});
        let ask = async |client: e2e::cloud::client::Client, path: &str, body: &Value| {
            client
                .call("POST", path, "application/json", body)
                .await
                .map_or((0, Value::Null), |answer| answer)
        };
        let (status, kept) = ask(rig.kubelet(), path, &request).await;
        assert_eq!(status, 201, "{kept}");
        let kept = kept["status"]["token"].as_str().unwrap().to_owned();
        let impersonating =
            rig.kubelet().with_header(http::HeaderName::from_static("impersonate-user"), POD_USER);
        let others = || {
            [
                ("a pod", rig.pod()),
                ("nobody", rig.nobody()),
                ("another node", rig.client(Some(&rig.authority.node("n2").unwrap()))),
                ("an administrator", rig.stranger()),
                ("the node as another", impersonating.clone()),
            ]
        };
        let vary = |change: fn(&mut Value)| {
            let mut varied = request.clone();
            change(&mut varied);
            varied
        };
        let variants = [
            ("audience", vary(|r| r["spec"]["audiences"] = json!(["vault"]))),
            ("time", vary(|r| r["spec"]["expirationSeconds"] = 7200.into())),
            ("pod", vary(|r| r["spec"]["boundObjectRef"] = bound_to("q"))),
            ("uid", vary(|r| r["spec"]["boundObjectRef"]["uid"] = "another".into())),
            ("no pod", vary(|r| r["spec"]["boundObjectRef"] = Value::Null)),
        ];
        for cut in [false, true] {
            if cut {
                rig.cut(LinkState::Refused).await;
            }
            for (who, client) in others() {
                let (status, answer) = ask(client, path, &request).await;
                assert!(matches!(status, 0 | 401 | 403 | 503), "{who}, cut {cut}: {status}");
                assert!(!answer.to_string().contains(&kept), "{who}, cut {cut}");
            }
            // Online each of them is a token of its own, which would be kept.
            for (what, variant) in variants.iter().filter(|_| cut) {
                let (status, answer) = ask(rig.kubelet(), path, variant).await;
                assert!(!answer.to_string().contains(&kept), "{what}");
                assert!(status >= 400, "{what}: a token that was never given: {status}");
            }
            let other = path.replace("reader", "other");
            let (status, answer) = ask(rig.kubelet(), &other, &request).await;
            assert!(status >= 400, "an account of no pod here, cut {cut}: {answer}");
        }
        let (_, answer) = ask(rig.kubelet(), path, &request).await;
        assert_eq!(answer["status"]["token"], kept.as_str(), "the node itself has it");
    });
}
