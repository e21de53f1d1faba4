//! How commands show who they are, and know whom they talk to.

use super::output::{CommandError, Exit};
use crate::replication::Password;
use hyper::header::HeaderValue;
use std::convert::Infallible;
use std::path::PathBuf;

/// A token, and the certificate of the server.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct AccessArgs {
    /// Token for a server that asks for one, as `pal token` makes it; in the environment other users do not see it.
    #[arg(long, env = "PAL_TOKEN", hide_env_values = true, value_name = "TOKEN", value_parser = parse_token, global = true)]
    pub token: Option<Password>,
    /// Certificates in PEM that have signed the server's, or are it: needed for https://, and makes the page service's client use TLS.
    #[arg(long, env = "PAL_CA", value_name = "FILE", global = true)]
    pub ca: Option<PathBuf>,
}

/// Takes anything: an error of the parser would print it.
fn parse_token(text: &str) -> Result<Password, Infallible> {
    Ok(Password::new(text))
}

impl AccessArgs {
    /// The token, unless it is empty, as a variable that is set to nothing is.
    pub fn token(&self) -> Option<&Password> {
        self.token.as_ref().filter(|token| !token.expose().is_empty())
    }

    /// The token as a header.
    pub fn authorization(&self) -> Result<Option<HeaderValue>, CommandError> {
        let Some(token) = self.token() else { return Ok(None) };
        let wrong = |_| CommandError::with(Exit::Invalid, "the token (--token, PAL_TOKEN) is none: it holds characters that no token has");
        let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose())).map_err(wrong)?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_not_shown() {
        let access = |text: &str| AccessArgs { token: Some(Password::new(text)), ca: None };
        assert!(!format!("{:?}", access("secret")).contains("secret"));
        let header = access("secret").authorization().unwrap().unwrap();
        assert!(header == "Bearer secret" && !format!("{header:?}").contains("secret"));
        assert_eq!(access("").authorization().unwrap(), None);
        let error = access("secret\n").authorization().unwrap_err();
        assert!(error.exit == Exit::Invalid && !error.message.contains("secret"), "{error:?}");
    }
}
