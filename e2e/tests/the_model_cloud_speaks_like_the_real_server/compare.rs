//! Two transcripts side by side: where they differ, and which of the differences are listed with a reason.

use serde_json::{Value, json};

use crate::transcript::Entry;

/// A difference that stays, and why.
pub(crate) struct Listed {
    /// What the request line must contain.
    pub(crate) request: &'static str,
    /// What the place in the answer must contain, e.g. `/body/status`.
    pub(crate) place: &'static str,
    /// Why it stays.
    pub(crate) reason: &'static str,
}

/// What a comparison found.
pub(crate) struct Outcome {
    /// Differences that nobody listed, ready to be read.
    pub(crate) unlisted: Vec<String>,
    /// How often each listed difference was met.
    pub(crate) met: Vec<usize>,
}

/// Compare two transcripts of the same script.
pub(crate) fn compare(model: &[Entry], real: &[Entry], listed: &[Listed]) -> Outcome {
    assert_eq!(model.len(), real.len(), "both play the same script");
    let mut outcome = Outcome { unlisted: Vec::new(), met: vec![0; listed.len()] };
    for (number, (model, real)) in model.iter().zip(real).enumerate() {
        let mut places = Vec::new();
        differ("", &model.answer, &real.answer, &mut places);
        for (place, model_has, real_has) in places {
            let known = |l: &Listed| real.request.contains(l.request) && place.contains(l.place);
            match listed.iter().position(known) {
                Some(at) => outcome.met[at] += 1,
                None => outcome.unlisted.push(format!(
                    "{number} {}\n    {place}\n      model: {model_has}\n      real:  {real_has}",
                    real.request
                )),
            }
        }
    }
    outcome
}

/// The places where two values differ, as JSON pointers, with what stands there.
fn differ(place: &str, model: &Value, real: &Value, places: &mut Vec<(String, Value, Value)>) {
    match (model, real) {
        (Value::Object(one), Value::Object(other)) => {
            let mut keys: Vec<&String> = one.keys().chain(other.keys()).collect();
            keys.sort_unstable();
            keys.dedup();
            for key in keys {
                let absent = json!("<absent>");
                let (one, other) = (one.get(key).unwrap_or(&absent), other.get(key).unwrap_or(&absent));
                differ(&format!("{place}/{key}"), one, other, places);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (at, (one, other)) in one.iter().zip(other).enumerate() {
                differ(&format!("{place}/{at}"), one, other, places);
            }
        }
        _ if model == real => {}
        _ => places.push((place.to_owned(), model.clone(), real.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_told_unless_it_is_listed() {
        let entry = |code: u16| {
            vec![Entry {
                request: "GET /version".into(),
                answer: json!({"status": code, "body": [1, {"a": code}]}),
            }]
        };
        let listed = [Listed { request: "/version", place: "/body/1/a", reason: "it is a test" }];
        let outcome = compare(&entry(200), &entry(404), &listed);
        assert_eq!((outcome.unlisted.len(), outcome.met), (1, vec![1]));
        assert!(compare(&entry(200), &entry(200), &listed).unlisted.is_empty());
    }
}
