//! One conversation with a PostgreSQL server: TLS, authentication, simple queries.
//!
//! In: a connection string and what the connection is for. Out: results of commands. Invariants: a command starts only after
//! the one before was read to its end; a connection whose command failed half-way answers every later one with an error.

use super::connstr::{ConnStr, SslMode};
use super::error::{ReplicationError, ServerError, advice_for};
use super::message::{self, Authentication, Frame, MessageError};
use super::tls;
use crate::io_abstraction::{BoxStream, Clock, ClockExt as _, Env, Mono};
use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Limit of a command that was given no other.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// Room that is made in the read buffer when it runs out, for commands.
const COMMAND_READ_BYTES: usize = 16 << 10;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Physical replication: the commands of a walsender, no SQL.
    Replication,
    /// SQL in the connection string's database (`postgres` if it names none).
    Sql,
}

/// Rows that one statement gave, as text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResultSet {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Option<Bytes>>>,
    /// Command tag, as in `SELECT 1`.
    pub tag: String,
}

/// An authenticated connection.
pub struct Connection {
    clock: Arc<dyn Clock>,
    /// Address in messages to people.
    server: String,
    stream: BoxStream,
    pub(super) input: BytesMut,
    pub(super) output: BytesMut,
    /// Output was handed to the stream and may still be in its buffer.
    unflushed: bool,
    read_bytes: usize,
    /// A command is under way.
    busy: bool,
    parameters: BTreeMap<String, String>,
}

/// Text of a command for messages: one line, not too long, no secrets that a later part might hold.
fn abbreviate(command: &str) -> String {
    const SHOWN: usize = 80;
    let line = command.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

impl Connection {
    /// Connects, encrypts and authenticates within the connection string's time limit.
    pub async fn connect(env: &Env, connstr: &ConnStr, mode: Mode) -> Result<Connection, ReplicationError> {
        let limit = if crate::planted!(env, "no-connect-limit") { Duration::MAX / 4 } else { connstr.connect_timeout };
        let attempt = Connection::connect_by_ssl_mode(env, connstr, mode);
        env.clock.timeout(limit, attempt).await.map_err(|_| ReplicationError::Timeout {
            server: connstr.address().to_string(),
            command: "the connection attempt".to_string(),
            after: limit,
        })?
    }

    async fn connect_by_ssl_mode(env: &Env, connstr: &ConnStr, mode: Mode) -> Result<Connection, ReplicationError> {
        // TLS does not exist on unix sockets; libpq ignores sslmode there too.
        if connstr.is_unix() || connstr.ssl_mode == SslMode::Disable {
            return Connection::open(env, connstr, mode, Encryption::No).await;
        }
        tls::check_settings(env, connstr)?;
        match connstr.ssl_mode {
            SslMode::Allow => match Connection::open(env, connstr, mode, Encryption::No).await {
                Err(e) if may_depend_on_encryption(&e) => Connection::open(env, connstr, mode, Encryption::Must).await.map_err(|_| e),
                other => other,
            },
            SslMode::Prefer => match Connection::open(env, connstr, mode, Encryption::IfOffered).await {
                Err(e) if may_depend_on_encryption(&e) => Connection::open(env, connstr, mode, Encryption::No).await.map_err(|_| e),
                other => other,
            },
            _ => Connection::open(env, connstr, mode, Encryption::Must).await,
        }
    }

    async fn open(env: &Env, connstr: &ConnStr, mode: Mode, encryption: Encryption) -> Result<Connection, ReplicationError> {
        let address = connstr.address();
        let server = address.to_string();
        let stream = env.net.connect(&address).await;
        let mut stream = stream.map_err(|source| ReplicationError::Connect { server: server.clone(), source })?;
        if encryption != Encryption::No && request_tls(&mut stream, connstr, &server, encryption).await? {
            stream = tls::encrypt(env, connstr, &server, stream).await?;
        }
        let mut connection = Connection {
            clock: env.clock.clone(),
            server,
            stream,
            input: BytesMut::new(),
            output: BytesMut::new(),
            unflushed: false,
            read_bytes: COMMAND_READ_BYTES,
            busy: false,
            parameters: BTreeMap::new(),
        };
        connection.start_up(connstr, mode).await?;
        Ok(connection)
    }

    async fn start_up(&mut self, connstr: &ConnStr, mode: Mode) -> Result<(), ReplicationError> {
        const STEP: &str = "startup";
        let mut parameters = vec![("user", connstr.user.as_str()), ("client_encoding", "UTF8")];
        match mode {
            Mode::Replication => parameters.push(("replication", "true")),
            Mode::Sql => parameters.push(("database", connstr.dbname.as_deref().unwrap_or("postgres"))),
        }
        if let Some(name) = &connstr.application_name {
            parameters.push(("application_name", name));
        }
        let encoded = frontend::startup_message(parameters, &mut self.output);
        encoded.map_err(|e| self.protocol(STEP, &e.to_string()))?;
        let deadline = self.deadline(connstr.connect_timeout);
        self.authenticate(connstr, deadline).await?;
        loop {
            let frame = self.read_frame(STEP, deadline).await?;
            match frame.tag {
                // Key data for cancelling and a lower protocol version: of no use here.
                b'K' | b'v' => {}
                b'Z' => return Ok(()),
                other => return Err(self.unexpected(STEP, other)),
            }
        }
    }

    async fn authenticate(&mut self, connstr: &ConnStr, deadline: Mono) -> Result<(), ReplicationError> {
        const STEP: &str = "authentication";
        let needed = |c: &Connection| ReplicationError::PasswordNeeded { server: c.server.clone() };
        loop {
            self.flush_output(STEP, deadline).await?;
            let frame = self.read_frame(STEP, deadline).await?;
            if frame.tag == b'v' {
                continue;
            }
            if frame.tag != b'R' {
                return Err(self.unexpected(STEP, frame.tag));
            }
            let request = message::parse_authentication(frame.body).map_err(|e| self.damaged(STEP, e))?;
            let password = connstr.password.as_ref().map(|p| p.expose());
            match request {
                Authentication::Ok => return Ok(()),
                Authentication::Cleartext => {
                    let password = password.ok_or_else(|| needed(self))?;
                    self.put_password(password.as_bytes())?;
                }
                Authentication::Md5(salt) => {
                    let password = password.ok_or_else(|| needed(self))?;
                    let hashed = md5_hash(connstr.user.as_bytes(), password.as_bytes(), salt);
                    self.put_password(hashed.as_bytes())?;
                }
                Authentication::Sasl(mechanisms) => {
                    let password = password.ok_or_else(|| needed(self))?;
                    if !mechanisms.iter().any(|m| m == SCRAM_SHA_256) {
                        return Err(self.method(&mechanisms.join(", ")));
                    }
                    return self.authenticate_scram(&connstr.user, password, deadline).await;
                }
                other => return Err(self.method(method_name(&other))),
            }
        }
    }

    async fn authenticate_scram(&mut self, user: &str, password: &str, deadline: Mono) -> Result<(), ReplicationError> {
        const STEP: &str = "SCRAM authentication";
        let proof = |c: &Connection, e: io::Error| ReplicationError::ServerProof {
            server: c.server.clone(),
            user: user.to_string(),
            why: e.to_string(),
        };
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let sent = frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut self.output);
        sent.map_err(|e| self.protocol(STEP, &e.to_string()))?;
        loop {
            self.flush_output(STEP, deadline).await?;
            let frame = self.read_frame(STEP, deadline).await?;
            if frame.tag != b'R' {
                return Err(self.unexpected(STEP, frame.tag));
            }
            match message::parse_authentication(frame.body).map_err(|e| self.damaged(STEP, e))? {
                Authentication::SaslContinue(data) => {
                    scram.update(&data).map_err(|e| proof(self, e))?;
                    let sent = frontend::sasl_response(scram.message(), &mut self.output);
                    sent.map_err(|e| self.protocol(STEP, &e.to_string()))?;
                }
                Authentication::SaslFinal(data) => {
                    scram.finish(&data).map_err(|e| proof(self, e))?;
                    break;
                }
                // In particular an early "ok": the server has not proved yet that it knows the password.
                other => return Err(proof(self, io::Error::other(format!("it answered {} too early", method_name(&other))))),
            }
        }
        let frame = self.read_frame(STEP, deadline).await?;
        let request = (frame.tag == b'R').then(|| message::parse_authentication(frame.body));
        match request {
            Some(Ok(Authentication::Ok)) => Ok(()),
            _ => Err(self.unexpected(STEP, frame.tag)),
        }
    }

    fn put_password(&mut self, password: &[u8]) -> Result<(), ReplicationError> {
        let encoded = frontend::password_message(password, &mut self.output);
        encoded.map_err(|e| self.protocol("authentication", &e.to_string()))
    }

    /// Runs one or more statements by the simple protocol and gives their results in order.
    ///
    /// Errors: the server's own leave the connection usable; all others end it.
    pub async fn simple_query(&mut self, sql: &str, limit: Duration) -> Result<Vec<ResultSet>, ReplicationError> {
        let deadline = self.deadline(limit);
        self.send_query(sql, deadline).await?;
        let command = abbreviate(sql);
        let mut sets = Vec::new();
        let mut current = ResultSet::default();
        let mut failure = None;
        loop {
            let frame = match self.read_any_frame(&command, deadline).await {
                Ok(frame) => frame,
                // A fatal error is followed by the end of the connection: the error says more.
                Err(e) => return Err(failure.unwrap_or(e)),
            };
            match frame.tag {
                b'T' => current.columns = message::parse_row_description(frame.body).map_err(|e| self.damaged(&command, e))?,
                b'D' => current.rows.push(message::parse_data_row(frame.body).map_err(|e| self.damaged(&command, e))?),
                b'C' => {
                    let tag = frame.body.strip_suffix(b"\0").unwrap_or(&frame.body);
                    current.tag = String::from_utf8_lossy(tag).into_owned();
                    sets.push(std::mem::take(&mut current));
                }
                b'I' => {}
                b'E' => failure = Some(self.refused(&command, message::parse_server_error(&frame.body))),
                b'Z' => {
                    self.busy = false;
                    return failure.map_or(Ok(sets), Err);
                }
                other => return Err(self.unexpected(&command, other)),
            }
        }
    }

    /// Sends a query and leaves the reading of the answer to the caller.
    pub(super) async fn send_query(&mut self, sql: &str, deadline: Mono) -> Result<(), ReplicationError> {
        let command = abbreviate(sql);
        if self.busy {
            return Err(self.protocol(&command, "an earlier command was not read to its end: open a new connection"));
        }
        self.busy = true;
        let encoded = frontend::query(sql, &mut self.output);
        encoded.map_err(|e| self.protocol(&command, &e.to_string()))?;
        self.flush_output(&command, deadline).await
    }

    /// Tells the server goodbye. Its failure has no consequence: the connection is gone either way.
    pub async fn close(mut self) {
        frontend::terminate(&mut self.output);
        let deadline = self.deadline(Duration::from_secs(1));
        let _ = self.flush_output("close", deadline).await;
    }

    /// Address for messages.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Value of a server parameter that is reported at start, such as `server_version`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Major version of the server, 0 if it did not say.
    pub fn server_major(&self) -> u32 {
        let digits: String = self.parameter("server_version").unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or(0)
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(super) fn deadline(&self, limit: Duration) -> Mono {
        self.clock.mono().after(limit)
    }

    /// The command under way has ended.
    pub(super) fn set_idle(&mut self) {
        self.busy = false;
    }

    /// Sets how much is read at a time.
    pub(super) fn set_read_bytes(&mut self, bytes: usize) {
        self.read_bytes = bytes;
    }

    /// The next frame; an error response becomes an error.
    pub(super) async fn read_frame(&mut self, command: &str, deadline: Mono) -> Result<Frame, ReplicationError> {
        let frame = self.read_any_frame(command, deadline).await?;
        match frame.tag {
            b'E' => Err(self.refused(command, message::parse_server_error(&frame.body))),
            _ => Ok(frame),
        }
    }

    async fn read_any_frame(&mut self, command: &str, deadline: Mono) -> Result<Frame, ReplicationError> {
        loop {
            if let Some(frame) = self.take_frame(command)? {
                return Ok(frame);
            }
            self.fill(command, deadline).await?;
        }
    }

    /// The next frame of the buffer. Messages that may come at any time are consumed here.
    pub(super) fn take_frame(&mut self, command: &str) -> Result<Option<Frame>, ReplicationError> {
        while let Some(frame) = message::take_frame(&mut self.input).map_err(|e| self.damaged(command, e))? {
            match frame.tag {
                b'S' => {
                    let (name, value) = message::parse_parameter_status(frame.body).map_err(|e| self.damaged(command, e))?;
                    self.parameters.insert(name, value);
                }
                b'N' => {
                    let notice = message::parse_server_error(&frame.body);
                    tracing::debug!(server = self.server, command, %notice, "notice from the server");
                }
                b'A' => {}
                _ => return Ok(Some(frame)),
            }
        }
        Ok(None)
    }

    fn make_room(&mut self) {
        // Less than a fourth left: move on to fresh memory (or reuse it when nobody holds a slice any more).
        if self.input.capacity() - self.input.len() < self.read_bytes / 4 {
            self.input.reserve(self.read_bytes);
        }
    }

    /// Reads what has arrived; waits for at least one byte until `deadline`. May be dropped at any await without loss.
    pub(super) async fn fill(&mut self, command: &str, deadline: Mono) -> Result<(), ReplicationError> {
        if self.fill_now(command)? {
            return Ok(());
        }
        let limit = deadline.since(self.clock.mono());
        let read = self.clock.timeout(limit, self.stream.read_buf(&mut self.input)).await;
        match read {
            Ok(read) => self.check_read(command, read),
            Err(_) => Err(ReplicationError::Timeout { server: self.server.clone(), command: command.to_string(), after: limit }),
        }
    }

    /// Reads what has arrived without waiting; false if there was nothing.
    pub(super) fn fill_now(&mut self, command: &str) -> Result<bool, ReplicationError> {
        self.make_room();
        match self.stream.read_buf(&mut self.input).now_or_never() {
            Some(read) => self.check_read(command, read).map(|()| true),
            None => Ok(false),
        }
    }

    fn check_read(&self, command: &str, read: io::Result<usize>) -> Result<(), ReplicationError> {
        match read {
            Ok(0) => Err(ReplicationError::Closed { server: self.server.clone(), command: command.to_string() }),
            Ok(_) => Ok(()),
            Err(source) => Err(ReplicationError::Io { server: self.server.clone(), command: command.to_string(), source }),
        }
    }

    /// Sends what is in the output buffer. May be dropped at any await: the next call goes on where it stopped.
    pub(super) async fn flush_output(&mut self, command: &str, deadline: Mono) -> Result<(), ReplicationError> {
        if self.output.is_empty() && !self.unflushed {
            return Ok(());
        }
        self.unflushed = true;
        let limit = deadline.since(self.clock.mono());
        let (stream, output) = (&mut self.stream, &mut self.output);
        let send = async move {
            while !output.is_empty() {
                if stream.write_buf(output).await? == 0 {
                    return Err(io::Error::from(io::ErrorKind::WriteZero));
                }
            }
            stream.flush().await
        };
        match self.clock.timeout(limit, send).await {
            Ok(Ok(())) => {
                self.unflushed = false;
                Ok(())
            }
            Ok(Err(source)) => Err(ReplicationError::Io { server: self.server.clone(), command: command.to_string(), source }),
            Err(_) => Err(ReplicationError::Timeout { server: self.server.clone(), command: command.to_string(), after: limit }),
        }
    }

    pub(super) fn refused(&self, command: &str, error: ServerError) -> ReplicationError {
        let advice = advice_for(&error);
        ReplicationError::Server { server: self.server.clone(), command: command.to_string(), error: Box::new(error), advice }
    }

    pub(super) fn protocol(&self, command: &str, why: &str) -> ReplicationError {
        ReplicationError::Protocol { server: self.server.clone(), command: command.to_string(), why: why.to_string() }
    }

    pub(super) fn unexpected(&self, command: &str, tag: u8) -> ReplicationError {
        self.protocol(command, &format!("a message of type '{}'", char::from(tag).escape_default()))
    }

    pub(super) fn damaged(&self, command: &str, source: MessageError) -> ReplicationError {
        ReplicationError::Message { server: self.server.clone(), command: command.to_string(), source }
    }

    fn method(&self, method: &str) -> ReplicationError {
        ReplicationError::AuthenticationMethod { server: self.server.clone(), method: method.to_string() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encryption {
    No,
    IfOffered,
    Must,
}

/// Asks whether the server speaks TLS. Exactly one byte is read: more could be somebody's injection before encryption.
async fn request_tls(stream: &mut BoxStream, connstr: &ConnStr, server: &str, encryption: Encryption) -> Result<bool, ReplicationError> {
    const STEP: &str = "the request for TLS";
    let broken = |source| ReplicationError::Io { server: server.to_string(), command: STEP.to_string(), source };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    match stream.read_u8().await.map_err(broken)? {
        b'S' => Ok(true),
        b'N' if encryption == Encryption::IfOffered => Ok(false),
        b'N' => Err(ReplicationError::TlsRefused { server: server.to_string(), mode: connstr.ssl_mode.name() }),
        other => Err(ReplicationError::Protocol {
            server: server.to_string(),
            command: STEP.to_string(),
            why: format!("byte {other:#04x}: this is no PostgreSQL server"),
        }),
    }
}

/// Whether the other choice of encryption could change the outcome (pg_hba.conf lines with `hostssl` and `hostnossl`).
fn may_depend_on_encryption(error: &ReplicationError) -> bool {
    matches!(error.sqlstate(), Some("28000")) || matches!(error, ReplicationError::Tls { .. })
}

fn method_name(request: &Authentication) -> &'static str {
    match request {
        Authentication::Ok => "ok",
        Authentication::Cleartext => "password",
        Authentication::Md5(_) => "md5",
        Authentication::Sasl(_) | Authentication::SaslContinue(_) | Authentication::SaslFinal(_) => "SASL",
        Authentication::Other(2) => "Kerberos",
        Authentication::Other(7 | 8) => "GSSAPI",
        Authentication::Other(9) => "SSPI",
        Authentication::Other(_) => "unknown",
    }
}
