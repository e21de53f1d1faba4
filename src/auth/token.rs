//! Tokens: JSON Web Tokens in compact form, signed with Ed25519.
//!
//! In: the text that a client sent, the keys, the time. Out: its claims. Invariant: no claim is looked at before a key has verified
//! the signature, and the algorithm is ours, never the token's choice.
//! Source: RFC 7515 sections 3.1, 4.1.11 and 5.2; RFC 7519 sections 4.1 and 7.2; RFC 8037 section 3.1.
//!
//! `base64url(header) . base64url(claims) . base64url(signature)`, the signature over the text before the second dot.
//!
//! | claim | meaning |
//! |---|---|
//! | `scope` | `pageserverapi`: everything; `tenant`: what concerns one tenant |
//! | `tenant_id` | that tenant, 32 hexadecimal digits |
//! | `exp`, `nbf` | seconds since 1970: not taken from then on, not before then; both optional |

use super::Permission;
use super::keys::{KeySet, SigningKey};
use crate::io_abstraction::Wall;
use crate::types::TenantId;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::Number;

const ALGORITHM: &str = "EdDSA";
const SCOPE_TENANT: &str = "tenant";
const SCOPE_EVERYTHING: &str = "pageserverapi";
/// Characters of a word of a token that an error repeats.
const SHOWN: usize = 40;

/// Why a token is refused. The texts hold nothing that would help to make a better one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("it is not a JSON Web Token: {0}")]
    Malformed(&'static str),
    #[error("its algorithm is {0:?}, and only EdDSA is taken")]
    Algorithm(String),
    #[error("no key of this server verifies its signature")]
    Signature,
    #[error("its claims make no sense: {0}")]
    Claims(String),
    #[error("its scope is {0:?}, and only tenant and pageserverapi are taken")]
    Scope(String),
    #[error("its scope is tenant, and it names no tenant_id")]
    NoTenant,
    #[error("it has expired")]
    Expired,
    #[error("its time has not come yet")]
    TooEarly,
}

/// What a token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claims {
    pub permission: Permission,
    /// Seconds since 1970 from which on it is not taken any more.
    pub expires: Option<i64>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    typ: Option<String>,
    /// Extensions that must be understood; none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crit: Option<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct Body {
    scope: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant_id: Option<TenantId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exp: Option<Number>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<Number>,
}

/// Makes a token.
pub fn encode(claims: &Claims, key: &SigningKey) -> String {
    let (scope, tenant_id) = match claims.permission {
        Permission::Everything => (SCOPE_EVERYTHING, None),
        Permission::Tenant(tenant) => (SCOPE_TENANT, Some(tenant)),
    };
    let header = Header { alg: ALGORITHM.to_string(), typ: Some("JWT".to_string()), crit: None };
    let body = Body { scope: scope.to_string(), tenant_id, exp: claims.expires.map(Number::from), nbf: None };
    sign(&plain_json(&header), &plain_json(&body), key)
}

fn plain_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts and numbers are plain data")
}

fn sign(header: &str, body: &str, key: &SigningKey) -> String {
    let mut text = format!("{}.{}", BASE64_URL_SAFE_NO_PAD.encode(header), BASE64_URL_SAFE_NO_PAD.encode(body));
    let signature = BASE64_URL_SAFE_NO_PAD.encode(key.sign(text.as_bytes()));
    text.push('.');
    text.push_str(&signature);
    text
}

/// Checks a token: form, algorithm, signature, then claims and time.
pub fn verify(text: &str, keys: &KeySet, now: Wall) -> Result<Claims, TokenError> {
    let part = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed("a part of it is not base64url"));
    let (signed, signature) = text.rsplit_once('.').ok_or(TokenError::Malformed("it has no dots"))?;
    let (header, body) = signed.split_once('.').ok_or(TokenError::Malformed("it has one dot"))?;
    let header: Header = serde_json::from_slice(&part(header)?).map_err(|_| TokenError::Malformed("its header is not one"))?;
    if header.alg != ALGORITHM {
        return Err(TokenError::Algorithm(shorten(&header.alg)));
    }
    if header.crit.is_some() {
        return Err(TokenError::Malformed("it asks for extensions"));
    }
    if !keys.verifies(signed.as_bytes(), &part(signature)?) {
        return Err(TokenError::Signature);
    }
    let body: Body = serde_json::from_slice(&part(body)?).map_err(|e| TokenError::Claims(e.to_string()))?;
    check(&body, now)
}

fn check(body: &Body, now: Wall) -> Result<Claims, TokenError> {
    let now = now.unix_seconds() as f64;
    let seconds = |number: &Option<Number>| number.as_ref().and_then(Number::as_f64);
    if seconds(&body.exp).is_some_and(|exp| now >= exp) {
        return Err(TokenError::Expired);
    }
    if seconds(&body.nbf).is_some_and(|nbf| now < nbf) {
        return Err(TokenError::TooEarly);
    }
    let permission = match (body.scope.as_str(), body.tenant_id) {
        (SCOPE_EVERYTHING, _) => Permission::Everything,
        (SCOPE_TENANT, Some(tenant)) => Permission::Tenant(tenant),
        (SCOPE_TENANT, None) => return Err(TokenError::NoTenant),
        (other, _) => return Err(TokenError::Scope(shorten(other))),
    };
    Ok(Claims { permission, expires: seconds(&body.exp).map(|exp| exp as i64) })
}

fn shorten(word: &str) -> String {
    word.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::keys;
    use crate::io_abstraction::{disk::write_file_durably, real};
    use proptest::prelude::*;

    const TENANT: TenantId = TenantId([0xab; 16]);
    const NOW: Wall = Wall(1_800_000_000_000_000);
    const SECONDS: i64 = 1_800_000_000;
    const HEADER: &str = r#"{"alg":"EdDSA","typ":"JWT"}"#;
    const ALL: &str = r#"{"scope":"pageserverapi"}"#;

    fn key(n: u8) -> SigningKey {
        SigningKey::from_seed(&[n; 32])
    }

    /// The set of the keys 1 and 2.
    fn keys() -> KeySet {
        let directory = tempfile::tempdir().unwrap();
        let disk = real::file_system();
        for n in [1, 2] {
            write_file_durably(&*disk, &directory.path().join(format!("{n}.pem")), key(n).public_pem().as_bytes()).unwrap();
        }
        KeySet::load(&*disk, directory.path()).unwrap()
    }

    #[test]
    fn what_was_signed_is_read_back() {
        let keys = keys();
        for permission in [Permission::Everything, Permission::Tenant(TENANT)] {
            for expires in [None, Some(SECONDS + 1)] {
                let claims = Claims { permission, expires };
                for n in [1, 2] {
                    assert_eq!(verify(&encode(&claims, &key(n)), &keys, NOW), Ok(claims));
                }
                assert_eq!(verify(&encode(&claims, &key(3)), &keys, NOW), Err(TokenError::Signature));
            }
        }
        let text = encode(&Claims { permission: Permission::Tenant(TENANT), expires: Some(5) }, &key(1));
        let body = BASE64_URL_SAFE_NO_PAD.decode(text.split('.').nth(1).unwrap()).unwrap();
        assert_eq!(String::from_utf8(body).unwrap(), format!(r#"{{"scope":"tenant","tenant_id":"{TENANT}","exp":5}}"#));
    }

    #[test]
    fn claims_and_headers() {
        let keys = keys();
        let all = Ok(Permission::Everything);
        let malformed = Err("not a JSON Web Token");
        for (header, body, want) in [
            (HEADER, ALL, all),
            (r#"{"alg":"EdDSA"}"#, ALL, all),
            (r#"{"alg":"EdDSA","kid":"7","typ":"at+jwt"}"#, r#"{"scope":"pageserverapi","iat":1,"iss":"x","tenant_id":null}"#, all),
            (r#"{"alg":"none"}"#, ALL, Err("\"none\"")),
            (r#"{"alg":"HS256"}"#, ALL, Err("\"HS256\"")),
            (r#"{"alg":"eddsa"}"#, ALL, Err("only EdDSA")),
            (r#"{"typ":"JWT"}"#, ALL, malformed),
            (r#"{"alg":"EdDSA","crit":["exp"]}"#, ALL, malformed),
            (r#"{"alg":"HS256","alg":"EdDSA"}"#, ALL, malformed),
            ("EdDSA", ALL, malformed),
            (HEADER, r#"{"scope":"pageserverapi","exp":1800000001}"#, all),
            (HEADER, r#"{"scope":"pageserverapi","exp":1800000000.5}"#, all),
            (HEADER, r#"{"scope":"pageserverapi","exp":1800000000}"#, Err("expired")),
            (HEADER, r#"{"scope":"pageserverapi","exp":-1}"#, Err("expired")),
            (HEADER, r#"{"scope":"pageserverapi","exp":1e300}"#, all),
            (HEADER, r#"{"scope":"pageserverapi","exp":"soon"}"#, Err("no sense")),
            (HEADER, r#"{"scope":"pageserverapi","nbf":1800000000}"#, all),
            (HEADER, r#"{"scope":"pageserverapi","nbf":1800000001}"#, Err("not come")),
            (HEADER, r#"{"scope":"tenant","tenant_id":"abababababababababababababababab"}"#, Ok(Permission::Tenant(TENANT))),
            (HEADER, r#"{"scope":"tenant"}"#, Err("names no tenant_id")),
            (HEADER, r#"{"scope":"tenant","tenant_id":"abab"}"#, Err("no sense")),
            (HEADER, r#"{"scope":"tenant","scope":"pageserverapi"}"#, Err("no sense")),
            (HEADER, r#"{"scope":"safekeeperdata"}"#, Err("\"safekeeperdata\"")),
            (HEADER, r#"{"scope":"PageServerApi"}"#, Err("\"PageServerApi\"")),
            (HEADER, r#"{"tenant_id":"abababababababababababababababab"}"#, Err("no sense")),
            (HEADER, "[]", Err("no sense")),
            (HEADER, "", Err("no sense")),
        ] {
            let verified = verify(&sign(header, body, &key(2)), &keys, NOW).map(|claims| claims.permission).map_err(|e| e.to_string());
            match (&verified, want) {
                (Ok(got), Ok(want)) => assert_eq!(*got, want, "{header} {body}"),
                (Err(error), Err(part)) => assert!(error.contains(part), "{header} {body}: {error}"),
                _ => panic!("{header} {body}: {verified:?}"),
            }
        }
    }

    #[test]
    fn a_token_that_was_touched_is_refused() {
        let keys = keys();
        let token = encode(&Claims { permission: Permission::Tenant(TENANT), expires: None }, &key(1));
        let all = encode(&Claims { permission: Permission::Everything, expires: None }, &key(3));
        let (head, signature) = token.rsplit_once('.').unwrap();
        let (header, _) = head.split_once('.').unwrap();
        let unsigned = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        for text in [
            String::new(),
            ".".to_string(),
            "..".to_string(),
            "secret".to_string(),
            head.to_string(),
            format!("{head}."),
            format!("{token}."),
            format!("{token}.{signature}"),
            format!("{token}="),
            format!(" {token}"),
            format!("{unsigned}.{}.", BASE64_URL_SAFE_NO_PAD.encode(ALL)),
            format!("{header}.{}.{signature}", BASE64_URL_SAFE_NO_PAD.encode(ALL)),
            format!("{}.{signature}", all.rsplit_once('.').unwrap().0),
        ] {
            assert!(verify(&text, &keys, NOW).is_err(), "{text}");
        }
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let text = String::from_utf8(bytes).unwrap();
            assert!(verify(&text, &keys, NOW).is_err(), "{at}: {text}");
        }
        assert!(!keys::private_pem(&[1; 32]).contains(signature));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn garbage_is_refused(text in "[A-Za-z0-9_.=-]{0,200}|\\PC{0,80}") {
            prop_assert!(verify(&text, &keys(), NOW).is_err());
        }
    }
}
