//! One line of the request script: who asks what, and what of the answer later lines need.

use serde_json::Value;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// A member of `system:masters`, by certificate.
    Admin,
    /// The kubelet of the node `edge-1`, by certificate.
    Node,
    /// The ServiceAccount `script/reader`, by the token that the script has asked for.
    Reader,
    /// A bearer token that nobody has issued.
    Forger,
    /// Nobody: no credential at all.
    Nobody,
}

/// Where the reading of a watch stream stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// The server ends it.
    End,
    /// The event of an object of this name.
    Named(&'static str),
    /// The bookmark that ends the initial events.
    Marked,
    /// Any bookmark; bookmarks are part of the transcript then.
    Bookmark,
}

/// A watch: what is done while it runs, and where its reading stops.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) acts: Vec<Act>,
    pub(crate) until: Until,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) who: Who,
    pub(crate) method: &'static str,
    /// Path and query; `${name}` stands for what was saved under that name.
    pub(crate) path: String,
    pub(crate) accept: &'static str,
    /// What is special about it, for who reads the transcript.
    pub(crate) note: &'static str,
    /// One more header.
    pub(crate) header: Option<(&'static str, &'static str)>,
    pub(crate) content_type: &'static str,
    /// `${name}` as in the path.
    pub(crate) body: String,
    /// Name, and where in the answer (a JSON pointer).
    pub(crate) saves: Vec<(&'static str, &'static str)>,
    /// The list must have exactly the revision saved under this name.
    pub(crate) pinned: Option<&'static str>,
    pub(crate) stream: Option<Stream>,
}

/// A right that the authorizer comes to give or take a moment after what it depends on has changed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Right {
    pub(crate) user: &'static str,
    pub(crate) groups: &'static [&'static str],
    /// Reading this resource in the namespace `script`.
    pub(crate) resource: &'static str,
    pub(crate) name: &'static str,
    pub(crate) allowed: bool,
}

/// A line of the script.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// A request, part of the transcript.
    Ask(Box<Step>),
    /// The history up to now is forgotten.
    Forget,
    /// Nothing goes on before this right is as it says.
    Await(Right),
    /// A CustomResourceDefinition is posted to the first path, and then waited for at the second.
    Define(Box<(&'static str, Value, &'static str)>),
}

impl From<Step> for Act {
    fn from(step: Step) -> Self {
        Self::Ask(Box::new(step))
    }
}

/// The note on requests whose refusal quotes the server's JSON parser.
pub(crate) const NO_JSON: &str = "no JSON";

pub(crate) const JSON: &str = "application/json";
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
pub(crate) const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
pub(crate) const PARTIAL: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
pub(crate) const PARTIAL_LIST: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";

impl Step {
    /// A request without a body, by the administrator, that accepts JSON.
    pub(crate) fn new(method: &'static str, path: impl Into<String>) -> Self {
        Self {
            who: Who::Admin,
            method,
            path: path.into(),
            accept: JSON,
            note: "",
            header: None,
            content_type: JSON,
            body: String::new(),
            saves: Vec::new(),
            pinned: None,
            stream: None,
        }
    }

    pub(crate) fn by(mut self, who: Who) -> Self {
        self.who = who;
        self
    }

    pub(crate) fn accept(mut self, accept: &'static str) -> Self {
        self.accept = accept;
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.header = Some((name, value));
        self
    }

    pub(crate) fn body(mut self, body: &Value) -> Self {
        self.body = body.to_string();
        self
    }

    pub(crate) fn note(mut self, note: &'static str) -> Self {
        self.note = note;
        self
    }

    /// A body as it is, of this type.
    pub(crate) fn raw(mut self, content_type: &'static str, body: &str) -> Self {
        body.clone_into(&mut self.body);
        self.content_type = content_type;
        self
    }

    /// Keep what stands at `pointer` of the answer under `name`.
    pub(crate) fn save(mut self, name: &'static str, pointer: &'static str) -> Self {
        self.saves.push((name, pointer));
        self
    }

    pub(crate) fn pinned(mut self, name: &'static str) -> Self {
        self.pinned = Some(name);
        self
    }

    /// Read the answer as a watch stream.
    pub(crate) fn watch(mut self, until: Until, acts: impl IntoIterator<Item = Act>) -> Self {
        self.stream = Some(Stream { acts: acts.into_iter().collect(), until });
        self
    }
}

pub(crate) fn get(path: impl Into<String>) -> Step {
    Step::new("GET", path)
}

pub(crate) fn post(path: impl Into<String>, body: &Value) -> Step {
    Step::new("POST", path).body(body)
}

pub(crate) fn put(path: impl Into<String>, body: &Value) -> Step {
    Step::new("PUT", path).body(body)
}

pub(crate) fn delete(path: impl Into<String>) -> Step {
    Step::new("DELETE", path)
}

/// A merge patch.
pub(crate) fn merge(path: impl Into<String>, patch: &Value) -> Step {
    Step::new("PATCH", path).raw("application/merge-patch+json", &patch.to_string())
}

/// A strategic merge patch.
pub(crate) fn strategic(path: impl Into<String>, patch: &Value) -> Step {
    Step::new("PATCH", path).raw("application/strategic-merge-patch+json", &patch.to_string())
}

/// A JSON patch.
pub(crate) fn json_patch(path: impl Into<String>, patch: &Value) -> Step {
    Step::new("PATCH", path).raw("application/json-patch+json", &patch.to_string())
}

/// A server-side apply.
pub(crate) fn apply(path: impl Into<String>, object: &Value) -> Step {
    Step::new("PATCH", path).raw("application/apply-patch+yaml", &object.to_string())
}
