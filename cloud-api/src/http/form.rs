//! A multipart form with a sound file and a few short texts.

use std::collections::BTreeMap;

use axum::extract::Multipart;
use axum::extract::multipart::{Field, MultipartError, MultipartRejection};
use axum::http::StatusCode;

use super::{Api, Problem};
use crate::inference::{Held, MAX_FILE_BYTES};

/// The name that the file's field has by convention; any other field with a file name will do.
const FILE: &str = "file";
/// Longest text.
const MAX_TEXT_BYTES: usize = 1_024;
/// Most fields.
const MAX_FIELDS: usize = 16;

/// What came.
pub(super) struct Form {
    pub(super) file: Vec<u8>,
    pub(super) file_name: String,
    pub(super) texts: BTreeMap<String, String>,
    /// The file's room in memory.
    pub(super) held: Held,
}

/// Reads the whole form. The file takes room in memory as it comes.
pub(super) async fn read(
    api: &Api,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Form, Problem> {
    let mut form = form.map_err(|_| {
        Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Send a multipart form with a sound file in the field \"file\", as \
             curl -F file=@shot.wav does.",
        )
    })?;
    let mut held = Held::nothing();
    let (mut file, mut texts) = (None, BTreeMap::new());
    for _ in 0..MAX_FIELDS {
        let Some(field) = form.next_field().await.map_err(|error| broken(&error))? else {
            let (file_name, file) =
                file.ok_or_else(|| Problem::bad_request("The form has no field \"file\"."))?;
            return Ok(Form { file, file_name, texts, held });
        };
        let name = field.name().unwrap_or("").to_owned();
        if name == FILE || field.file_name().is_some() {
            if file.is_some() {
                return Err(Problem::bad_request("The form has more than one file; send one."));
            }
            let file_name = field.file_name().unwrap_or("").to_owned();
            let bytes = read_file(api, field, &mut held).await?;
            if bytes.is_empty() {
                return Err(Problem::bad_request("The file is empty."));
            }
            file = Some((file_name, bytes));
        } else {
            let text = read_text(field, &name).await?;
            texts.insert(name, text);
        }
    }
    Err(Problem::bad_request(format!("The form has more than {MAX_FIELDS} fields.")))
}

async fn read_file(api: &Api, mut field: Field<'_>, held: &mut Held) -> Result<Vec<u8>, Problem> {
    let mut file = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(|error| broken(&error))? {
        if file.len() + chunk.len() > MAX_FILE_BYTES {
            return Err(too_long());
        }
        api.inference.hold(held, chunk.len())?;
        file.extend_from_slice(&chunk);
    }
    Ok(file)
}

async fn read_text(mut field: Field<'_>, name: &str) -> Result<String, Problem> {
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(|error| broken(&error))? {
        if bytes.len() + chunk.len() > MAX_TEXT_BYTES {
            return Err(Problem::bad_request(format!(
                "{name}: longer than {MAX_TEXT_BYTES} bytes."
            )));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|_| Problem::bad_request(format!("{name}: no UTF-8.")))
}

fn broken(error: &MultipartError) -> Problem {
    match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_long(),
        _ => Problem::bad_request(format!("The form is broken: {}.", error.body_text())),
    }
}

fn too_long() -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("The file is longer than {} MiB.", MAX_FILE_BYTES / (1024 * 1024)),
    )
}

/// A choice out of a query or a form; `None` is no.
pub(super) fn choice(name: &str, text: Option<&str>) -> Result<bool, Problem> {
    match text.map(str::trim) {
        None | Some("false" | "0" | "no") => Ok(false),
        Some("true" | "1" | "yes" | "") => Ok(true),
        Some(other) => {
            Err(Problem::bad_request(format!("{name}: expected true or false, found {other:?}.")))
        }
    }
}
