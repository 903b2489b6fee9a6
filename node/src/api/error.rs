//! Failures as the API tells them: a status, a stable code, a public message. Internals are logged.

use std::time::Duration;

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use dunlin_archive as archive;
use dunlin_client::ErrorBody;
use dunlin_engine::{CompactionError, ReadError, WriteError};

use crate::{daemon::FetchError, key_ring::KeyRingError};

/// A refusal or failure of one request.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl ApiError {
    /// The request itself is wrong; asking again the same way cannot help.
    pub(crate) fn bad_request(code: &'static str, message: impl ToString) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code, message: message.to_string() }
    }

    /// What was asked about is not here.
    pub(crate) fn not_found(message: impl ToString) -> Self {
        Self { status: StatusCode::NOT_FOUND, code: "not_found", message: message.to_string() }
    }

    /// The request contradicts what is there.
    pub(crate) fn conflict(code: &'static str, message: impl ToString) -> Self {
        Self { status: StatusCode::CONFLICT, code, message: message.to_string() }
    }

    /// Whoever is behind the request's content is not heard.
    pub(crate) fn forbidden(code: &'static str, message: impl ToString) -> Self {
        Self { status: StatusCode::FORBIDDEN, code, message: message.to_string() }
    }

    /// A limit is reached or a store refuses: the request is right, but cannot be carried out now.
    pub(crate) fn unavailable(code: &'static str, message: impl ToString) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, code, message: message.to_string() }
    }

    /// The path is right, the method is not.
    pub(super) fn method_not_allowed() -> Self {
        Self {
            status: StatusCode::METHOD_NOT_ALLOWED,
            code: "method_not_allowed",
            message: "this call has another method; docs/api.md lists them".to_owned(),
        }
    }

    /// The body is larger than any is taken.
    pub(super) fn body_too_large(bytes_max: usize) -> Self {
        Self {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            code: "too_large",
            message: format!("the body is larger than {bytes_max} bytes; send smaller batches"),
        }
    }

    /// The body did not arrive.
    pub(super) fn body_timeout(waited: Duration) -> Self {
        Self {
            status: StatusCode::REQUEST_TIMEOUT,
            code: "timeout",
            message: format!("the body did not arrive within {} s", waited.as_secs()),
        }
    }

    /// A store cannot be read or written, and after a failed write stays so. The cause goes to the log.
    pub(crate) fn store_failed(cause: impl Into<anyhow::Error>) -> Self {
        tracing::error!(cause = format!("{:#}", cause.into()), "a store failed");
        Self::unavailable(
            "store_failed",
            "a store cannot be used; mend the disk and restart the node (its log says what failed)",
        )
    }

    /// Something failed here that the caller cannot mend. The cause goes to the log alone.
    pub(crate) fn internal(cause: impl Into<anyhow::Error>) -> Self {
        tracing::error!(cause = format!("{:#}", cause.into()), "request failed");
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            code: "internal",
            message: "the node failed to answer; its log says why".to_owned(),
        }
    }

    /// The caller has no token, or another one.
    pub(super) fn unauthorized() -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            code: "unauthorized",
            message:
                "send `Authorization: Bearer <token>` with the token in the data folder's api.token"
                    .to_owned(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody { code: self.code.to_owned(), message: self.message };
        (self.status, Json(body)).into_response()
    }
}

impl From<CompactionError> for ApiError {
    fn from(error: CompactionError) -> Self {
        match error {
            CompactionError::Read(cause) => cause.into(),
            CompactionError::Write(cause) => cause.into(),
            cause => Self::bad_request("bad_query", cause),
        }
    }
}

impl From<WriteError> for ApiError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::UnknownCollection { .. } | WriteError::UnknownEntity { .. } => {
                Self::not_found(error)
            }
            WriteError::BadObservation { .. } | WriteError::BatchTooLarge { .. } => {
                Self::bad_request("bad_observation", chain(&error))
            }
            WriteError::Spec(_) => Self::bad_request("bad_collection", error),
            WriteError::OtherSpec { .. } => Self::conflict("collection_differs", error),
            WriteError::TooManyEntities { .. } | WriteError::TooManyCollections => {
                Self::unavailable("full", error)
            }
            _ => Self::unavailable("store_failed", chain(&error)),
        }
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::UnknownCollection { .. } | ReadError::UnknownEntity { .. } => {
                Self::not_found(error)
            }
            ReadError::Store(_) => Self::store_failed(error),
            _ => Self::bad_request("bad_query", chain(&error)),
        }
    }
}

impl From<archive::ReadError> for ApiError {
    fn from(error: archive::ReadError) -> Self {
        Self::store_failed(error)
    }
}

impl From<archive::ImportError> for ApiError {
    fn from(error: archive::ImportError) -> Self {
        match error {
            archive::ImportError::Car(cause) => Self::bad_request("bad_file", chain(&cause)),
            archive::ImportError::Put(cause) => cause.into(),
            other => Self::store_failed(other),
        }
    }
}

/// What a refusal for want of room says.
fn full(cause: &archive::PutError) -> ApiError {
    let what_to_do = "raise `archive.mib_max` and restart the node, or let go of something: \
                      `dunlin archive pins ls --all` shows what takes how much";
    ApiError::unavailable("full", format!("{cause}; {what_to_do}"))
}

impl From<archive::PutError> for ApiError {
    fn from(error: archive::PutError) -> Self {
        match error {
            archive::PutError::Full { .. } => full(&error),
            other => Self::store_failed(other),
        }
    }
}

impl From<archive::PinError> for ApiError {
    fn from(error: archive::PinError) -> Self {
        match error {
            archive::PinError::Taken { .. } => Self::conflict(
                "pin_differs",
                format!("{error}; choose another name, or remove it first"),
            ),
            archive::PinError::Missing { .. } => Self::not_found(format!(
                "{error}; fetch it first (`dunlin segments fetch --payload`), or pin the root alone"
            )),
            archive::PinError::Graph { .. } => Self::bad_request("bad_query", error),
            archive::PinError::Read(cause) => cause.into(),
            archive::PinError::Put(cause) => cause.into(),
            other => Self::store_failed(other),
        }
    }
}

impl From<FetchError> for ApiError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Put(cause) => cause.into(),
            FetchError::Keys(cause) => cause.into(),
            other => Self::store_failed(other),
        }
    }
}

impl From<KeyRingError> for ApiError {
    fn from(error: KeyRingError) -> Self {
        // It says what to do, and holds no secret.
        Self::unavailable("keys", chain(&error))
    }
}

/// Returns an error with its causes on one line; a cause that its effect repeats is left out.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
