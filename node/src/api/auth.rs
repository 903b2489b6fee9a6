//! The bearer token: whoever may read it in the data folder may use the API.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{Request, State},
    http::header::AUTHORIZATION,
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::error::ApiError;
use crate::daemon::Shared;

/// The token that callers must show.
#[derive(Clone)]
pub(crate) struct Token(Arc<str>);

impl Token {
    /// Returns the token `text`.
    pub(crate) fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// Returns whether `shown` is this token, in a time that depends on nothing but the lengths: a
    /// caller cannot guess it byte by byte.
    fn admits(&self, shown: &[u8]) -> bool {
        let expected = self.0.as_bytes();
        let pairs = expected.iter().zip(shown);
        let difference = pairs.fold(0, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
        expected.len() == shown.len() && difference == 0
    }
}

/// Lets a request through when it carries the token.
pub(super) async fn require_token(
    State(token): State<Token>,
    request: Request,
    next: Next,
) -> Response {
    match bearer(&request) {
        Some(shown) if token.admits(shown) => next.run(request).await,
        _ => ApiError::unauthorized().into_response(),
    }
}

/// Lets a request through when it carries the token, or a pass to the console, which is used up.
pub(super) async fn require_token_or_pass(
    State((token, shared)): State<(Token, Arc<Shared>)>,
    request: Request,
    next: Next,
) -> Response {
    let is_admitted = bearer(&request)
        .is_some_and(|shown| token.admits(shown) || shared.passes.take(shown, Instant::now()));
    if is_admitted { next.run(request).await } else { ApiError::unauthorized().into_response() }
}

fn bearer(request: &Request) -> Option<&[u8]> {
    let header = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes());
    header.and_then(|value| value.strip_prefix(b"Bearer "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_admitted() {
        let token = Token::new("0123456789abcdef");
        assert!(token.admits(b"0123456789abcdef"));
        for wrong in [&b""[..], b"0", b"0123456789abcdee", b"0123456789abcdef0"] {
            assert!(!token.admits(wrong), "{wrong:?}");
        }
    }
}
