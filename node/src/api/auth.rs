//! The bearer token: whoever may read it in the data folder may use the API.

use axum::{
    extract::{Request, State},
    http::header::AUTHORIZATION,
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::error::ApiError;

/// The token that callers must show.
#[derive(Clone)]
pub(crate) struct Token(std::sync::Arc<str>);

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
    let header = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes());
    match header.and_then(|value| value.strip_prefix(b"Bearer ")) {
        Some(shown) if token.admits(shown) => next.run(request).await,
        _ => ApiError::unauthorized().into_response(),
    }
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
