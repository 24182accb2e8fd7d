//! What a test does to the cloud's objects itself, as an administrator whom nobody asks for rights.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::delete::{self, DeleteOptions};
use crate::request::ResourceTarget;
use crate::resource::Gvr;
use crate::server::Cloud;
use crate::status::Status;
use crate::write;

impl Cloud {
    /// Create an object as the test, without authorization.
    ///
    /// # Errors
    /// As a POST by an administrator.
    pub fn create(&mut self, now: Duration, gvr: &Gvr, object: Value) -> Result<Arc<Value>, Status> {
        let kind = self.registry().find(gvr).ok_or_else(Status::no_such_path)?.clone();
        let target = self.target("create", gvr, object["metadata"]["namespace"].as_str(), None);
        write::create(self, now, &kind, &target, object)
    }

    /// Merge-patch an object as the test, without authorization; metadata, spec and status alike.
    ///
    /// # Errors
    /// 404, and what the patch may meet.
    pub fn merge(
        &mut self,
        now: Duration,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<Arc<Value>, Status> {
        let mut kind = self.registry().find(gvr).ok_or_else(Status::no_such_path)?.clone();
        // The test may change the status by the main path.
        kind.status = false;
        let target = self.target("patch", gvr, Some(namespace), Some(name));
        let body = patch.to_string();
        write::patch(self, now, &kind, &target, "application/merge-patch+json", body.as_bytes())
            .map(|(o, _)| o)
    }

    /// Delete an object as the test, at once (grace 0); finalizers hold it.
    ///
    /// # Errors
    /// 404.
    pub fn delete(&mut self, now: Duration, gvr: &Gvr, namespace: &str, name: &str) -> Result<(), Status> {
        let kind = self.registry().find(gvr).ok_or_else(Status::no_such_path)?.clone();
        let target = self.target("delete", gvr, Some(namespace), Some(name));
        delete::one(self, now, &kind, &target, &DeleteOptions::now()).map(|_| ())
    }

    fn target(
        &self,
        verb: &'static str,
        gvr: &Gvr,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> ResourceTarget {
        let namespaced = self.registry().find(gvr).is_some_and(|k| k.namespaced);
        ResourceTarget {
            verb,
            gvr: gvr.clone(),
            namespace: namespace.filter(|_| namespaced).map(str::to_owned),
            name: name.map(str::to_owned),
            subresource: None,
        }
    }
}
