//! Whatever an object's bytes, they become JSON within the bound, or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto_kube::json;
use proto_kube::object::TypeMeta;
use proto_kube::transcode::to_json;

const KINDS: [(&str, &str); 8] = [
    ("v1", "Pod"),
    ("v1", "Service"),
    ("v1", "Secret"),
    ("v1", "Event"),
    ("apps/v1", "ControllerRevision"),
    ("authorization.k8s.io/v1", "SubjectAccessReview"),
    ("coordination.k8s.io/v1", "Lease"),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
];

fuzz_target!(|raw: &[u8]| {
    for (api_version, kind) in KINDS {
        if let Ok(text) = to_json(&TypeMeta::new(api_version, kind), raw, 1 << 16) {
            let members = json::members(&text).expect("an object");
            members.for_each(|member| drop(member.expect("a member")));
        }
    }
});
