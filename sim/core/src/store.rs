//! The simulated object store.
//!
//! [`SimStore`] is the service; [`SimStore::client`] gives one incarnation of a host its connection, with latency and
//! faults drawn from that host's own stream. Objects live in an ordered map with all their versions and with simulated
//! time stamps. A request can fail before its effect, fail after it (the caller cannot know), never be answered, or be cut
//! in the middle of a delete batch or of a body; during an outage every request fails. Uploads in parts are kept by the
//! service until they are completed or aborted, so one that its client forgot can be seen.

use crate::event;
use crate::fuse::Fuse;
use crate::held::Ledger;
use crate::trace::HostTrace;
use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use object_store::path::Path;
use object_store::{
    Attributes, CopyMode, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use palimpsest::io_abstraction::rng::below;
use palimpsest::io_abstraction::{Clock, ClockExt as _, DetRng, Mono, RngSource, Wall};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How the store misbehaves. All off by default, except for latency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreFaults {
    pub latency_us_min: u64,
    pub latency_us_max: u64,
    /// Chance of an error before the effect, in parts per million of requests.
    pub error_before_ppm: u32,
    /// Chance of an error after the effect.
    pub error_after_ppm: u32,
    /// Chance that a request is never answered; half of them take effect.
    pub silent_ppm: u32,
    /// Chance that a request is refused because there are too many.
    pub throttle_ppm: u32,
    /// Chance that a conditional write is told of a conflict with another one, before its effect.
    pub conflict_ppm: u32,
    /// Every request fails.
    pub outage: bool,
}

impl Default for StoreFaults {
    fn default() -> StoreFaults {
        StoreFaults {
            latency_us_min: 500,
            latency_us_max: 20_000,
            error_before_ppm: 0,
            error_after_ppm: 0,
            silent_ppm: 0,
            throttle_ppm: 0,
            conflict_ppm: 0,
            outage: false,
        }
    }
}

/// Entries per page of a listing.
const LIST_PAGE: usize = 7;
/// Bytes in one piece of a body.
const PIECE: usize = 8 << 10;

/// One version of an object; `None` means that it was deleted then.
#[derive(Clone)]
struct Version {
    written: Mono,
    stamp: Wall,
    tag: u64,
    data: Option<Bytes>,
}

#[derive(Default)]
struct Objects {
    versions: BTreeMap<String, Vec<Version>>,
    next_tag: u64,
    /// Uploads in parts that were begun, by number.
    uploads: BTreeMap<u64, Upload>,
    next_upload: u64,
}

struct Upload {
    path: String,
    parts: BTreeMap<u32, Bytes>,
}

struct Shared {
    objects: Mutex<Objects>,
    faults: Mutex<StoreFaults>,
    clock: Arc<dyn Clock>,
}

/// The object store service.
#[derive(Clone)]
pub struct SimStore(Arc<Shared>);

/// One host's connection to the store.
struct Client {
    shared: Arc<Shared>,
    rng: Mutex<DetRng>,
    trace: HostTrace,
    held: Ledger,
    fuse: Fuse,
}

impl SimStore {
    pub fn new(clock: Arc<dyn Clock>) -> SimStore {
        SimStore(Arc::new(Shared { objects: Mutex::default(), faults: Mutex::default(), clock }))
    }

    pub fn set_faults(&self, faults: StoreFaults) {
        *self.0.faults.lock() = faults;
    }

    /// A connection whose unanswered requests are in `held`, and whose requests are sent until `fuse` is through.
    pub fn client(&self, source: &RngSource, trace: HostTrace, held: Ledger, fuse: Fuse) -> Arc<dyn ObjectStore> {
        let rng = Mutex::new(source.stream("object-store"));
        Arc::new(Handle(Arc::new(Client { shared: self.0.clone(), rng, trace, held, fuse })))
    }

    /// Paths of uploads in parts that were neither completed nor aborted.
    pub fn unfinished_uploads(&self) -> Vec<String> {
        self.0.objects.lock().uploads.values().map(|upload| upload.path.clone()).collect()
    }

    /// What an observer saw at `at`: path and content of every object, for oracles.
    pub fn snapshot(&self, at: Mono) -> BTreeMap<String, Bytes> {
        let objects = self.0.objects.lock();
        let visible = |versions: &Vec<Version>| versions.iter().rev().find(|v| v.written <= at).and_then(|v| v.data.clone());
        objects.versions.iter().filter_map(|(path, versions)| Some((path.clone(), visible(versions)?))).collect()
    }
}

impl Objects {
    fn current(&self, path: &str) -> Option<(&Version, &Bytes)> {
        let version = self.versions.get(path)?.last()?;
        Some((version, version.data.as_ref()?))
    }

    fn write(&mut self, path: &str, clock: &dyn Clock, data: Option<Bytes>) -> u64 {
        self.next_tag += 1;
        let version = Version { written: clock.mono(), stamp: clock.wall(), tag: self.next_tag, data };
        self.versions.entry(path.to_string()).or_default().push(version);
        self.next_tag
    }
}

fn tag_text(tag: u64) -> String {
    format!("\"{tag}\"")
}

fn refused(what: &'static str) -> Error {
    Error::Generic { store: "simulated", source: what.into() }
}

fn missing(path: &Path) -> Error {
    Error::NotFound { path: path.to_string(), source: "no such object".into() }
}

fn meta(path: &str, version: &Version, data: &Bytes) -> ObjectMeta {
    ObjectMeta {
        location: Path::from(path),
        last_modified: DateTime::<Utc>::from_timestamp_micros(version.stamp.0).unwrap_or_default(),
        size: data.len() as u64,
        e_tag: Some(tag_text(version.tag)),
        version: None,
    }
}

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Served,
    /// Refused before the effect, as one request too many.
    Throttled,
    /// A conditional write met another one.
    Conflict,
    FailsBefore,
    FailsAfter,
    SilentBefore,
    SilentAfter,
}

impl Client {
    fn draw(&self, conditional: bool) -> (Duration, Fate) {
        let faults = self.shared.faults.lock().clone();
        let mut rng = self.rng.lock();
        let spread = faults.latency_us_max.saturating_sub(faults.latency_us_min) + 1;
        let latency = Duration::from_micros(faults.latency_us_min + below(&mut rng, spread));
        // Always the same number of draws: switching one fault off shifts no other.
        let rolls: [u64; 6] = std::array::from_fn(|_| below(&mut rng, 1_000_000));
        let fate = if faults.outage || rolls[0] < u64::from(faults.error_before_ppm) {
            Fate::FailsBefore
        } else if rolls[4] < u64::from(faults.throttle_ppm) {
            Fate::Throttled
        } else if conditional && rolls[5] < u64::from(faults.conflict_ppm) {
            Fate::Conflict
        } else if rolls[1] < u64::from(faults.error_after_ppm) {
            Fate::FailsAfter
        } else if rolls[2] < u64::from(faults.silent_ppm) {
            if rolls[3] < 500_000 { Fate::SilentBefore } else { Fate::SilentAfter }
        } else {
            Fate::Served
        };
        (latency, fate)
    }

    fn cuts_body(&self) -> bool {
        below(&mut self.rng.lock(), 2) == 0
    }

    /// Runs one request: half of the latency, the effect, the other half.
    async fn request<T>(
        &self,
        op: &'static str,
        path: &str,
        effect: impl FnOnce(&mut Objects, &dyn Clock) -> Result<T> + Send,
    ) -> Result<T> {
        self.request_if(false, op, path, effect).await
    }

    async fn request_if<T>(
        &self,
        conditional: bool,
        op: &'static str,
        path: &str,
        effect: impl FnOnce(&mut Objects, &dyn Clock) -> Result<T> + Send,
    ) -> Result<T> {
        if self.fuse.burn() {
            return std::future::pending().await;
        }
        let _unanswered = self.held.hold(&format!("request {op} {path}"));
        let (latency, fate) = self.draw(conditional);
        self.shared.clock.sleep(latency / 2).await;
        let outcome = match fate {
            Fate::FailsBefore | Fate::SilentBefore | Fate::Throttled | Fate::Conflict => None,
            Fate::Served | Fate::FailsAfter | Fate::SilentAfter => Some(effect(&mut self.shared.objects.lock(), &*self.shared.clock)),
        };
        let answer = match &outcome {
            None => "none",
            Some(Ok(_)) => "ok",
            Some(Err(Error::NotFound { .. })) => "not_found",
            Some(Err(Error::AlreadyExists { .. })) => "exists",
            Some(Err(Error::Precondition { .. })) => "precondition",
            Some(Err(_)) => "error",
        };
        event!(self.trace, "store", "op={op} path={path} fate={fate:?} effect={answer}");
        self.shared.clock.sleep(latency / 2).await;
        match (fate, outcome) {
            (Fate::SilentBefore | Fate::SilentAfter, _) => std::future::pending().await,
            (Fate::Served, Some(outcome)) => outcome,
            (Fate::Throttled, _) => Err(refused("503 slow down")),
            (Fate::Conflict, _) => Err(refused("409 conditional request conflict")),
            _ => Err(refused("503 service unavailable")),
        }
    }
}

fn put(objects: &mut Objects, clock: &dyn Clock, path: &Path, data: Bytes, mode: &PutMode) -> Result<PutResult> {
    let current = objects.current(path.as_ref()).map(|(version, _)| version.tag);
    match mode {
        PutMode::Overwrite => {}
        PutMode::Create if current.is_some() => {
            return Err(Error::AlreadyExists { path: path.to_string(), source: "put-if-absent".into() });
        }
        PutMode::Create => {}
        PutMode::Update(expected) => {
            if current.is_none() || expected.e_tag != current.map(tag_text) {
                return Err(Error::Precondition { path: path.to_string(), source: "put-if-match".into() });
            }
        }
    }
    let tag = objects.write(path.as_ref(), clock, Some(data));
    Ok(PutResult { e_tag: Some(tag_text(tag)), version: None, extensions: Default::default() })
}

fn get(objects: &Objects, path: &Path, options: GetOptions) -> Result<GetResult> {
    let (version, data) = objects.current(path.as_ref()).ok_or_else(|| missing(path))?;
    let meta = meta(path.as_ref(), version, data);
    options.check_preconditions(&meta)?;
    let range = match options.range {
        Some(range) => range.as_range(meta.size).map_err(|e| Error::Generic { store: "simulated", source: e.into() })?,
        None => 0..meta.size,
    };
    let body = if options.head { Bytes::new() } else { data.slice(range.start as usize..range.end as usize) };
    let payload = GetResultPayload::Stream(stream::iter(pieces(body).map(Ok)).boxed());
    Ok(GetResult { payload, meta, range, attributes: Attributes::default(), extensions: Default::default() })
}

/// A body as it arrives: at least one piece, also if it is empty.
fn pieces(body: Bytes) -> impl Iterator<Item = Bytes> {
    let starts = (0..body.len().max(1)).step_by(PIECE);
    starts.map(move |at| body.slice(at..body.len().min(at + PIECE)))
}

/// The first half of a body, then the end of the connection.
fn cut(result: GetResult) -> GetResult {
    let half = (result.range.end - result.range.start) / 2;
    let GetResultPayload::Stream(whole) = result.payload else { return result };
    let kept = whole.scan(0, move |sent, piece| {
        *sent += piece.as_ref().map_or(0, |bytes: &Bytes| bytes.len() as u64);
        std::future::ready((*sent <= half).then_some(piece))
    });
    let broken = stream::once(std::future::ready(Err(refused("the connection broke"))));
    GetResult { payload: GetResultPayload::Stream(kept.chain(broken).boxed()), ..result }
}

/// One page of the objects under a prefix, after `after`.
fn page(objects: &Objects, prefix: &str, after: &str) -> Vec<ObjectMeta> {
    let under = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
    let start = after.to_string().max(under.clone());
    objects
        .versions
        .range::<str, _>((std::ops::Bound::Included(start.as_str()), std::ops::Bound::Unbounded))
        .take_while(|(path, _)| path.starts_with(&under))
        .filter(|(path, _)| path.as_str() > after)
        .filter_map(|(path, versions)| versions.last().and_then(|v| Some(meta(path, v, v.data.as_ref()?))))
        .take(LIST_PAGE)
        .collect()
}

/// The trait object. A newtype, because streams need the client behind an `Arc`.
#[derive(Clone)]
struct Handle(Arc<Client>);

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimStore")
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimStore")
    }
}

impl Handle {
    /// All objects under a prefix, page by page: each page is a request of its own and sees the store at its own moment.
    fn pages(&self, prefix: Option<&Path>, after: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.map_or(String::new(), |p| p.as_ref().to_string());
        let first = after.map_or(String::new(), |p| p.as_ref().to_string());
        let client = self.0.clone();
        stream::unfold(Some(first), move |position| {
            let (client, prefix) = (client.clone(), prefix.clone());
            async move {
                let after = position?;
                match client.request("list", &prefix, |objects, _| Ok(page(objects, &prefix, &after))).await {
                    Err(error) => Some((vec![Err(error)], None)),
                    Ok(metas) => {
                        let next = (metas.len() == LIST_PAGE).then(|| metas.last().map(|m| m.location.to_string())).flatten();
                        Some((metas.into_iter().map(Ok).collect(), next))
                    }
                }
            }
        })
        .flat_map(stream::iter)
        .boxed()
    }
}

#[async_trait]
impl ObjectStore for Handle {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let data = Bytes::from(payload);
        let conditional = !matches!(options.mode, PutMode::Overwrite);
        let effect = |objects: &mut Objects, clock: &dyn Clock| put(objects, clock, location, data, &options.mode);
        self.0.request_if(conditional, "put", location.as_ref(), effect).await
    }

    async fn put_multipart_opts(&self, location: &Path, _options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let begin = |objects: &mut Objects, _: &dyn Clock| {
            objects.next_upload += 1;
            objects.uploads.insert(objects.next_upload, Upload { path: location.to_string(), parts: BTreeMap::new() });
            Ok(objects.next_upload)
        };
        let upload = self.0.request("multipart", location.as_ref(), begin).await?;
        Ok(Box::new(Multipart { client: self.0.clone(), location: location.clone(), upload, next: 0 }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        // An answer that fails after its effect fails while its body is read, half of the time.
        let cut_short = self.0.cuts_body();
        let kept = Arc::new(Mutex::new(None));
        let slot = kept.clone();
        let effect = |objects: &mut Objects, _: &dyn Clock| {
            let result = get(objects, location, options)?;
            *slot.lock() = Some(result);
            Ok(())
        };
        let outcome = self.0.request("get", location.as_ref(), effect).await;
        let result = kept.lock().take();
        match (outcome, result) {
            (Ok(()), Some(result)) => Ok(result),
            (Err(_), Some(result)) if cut_short => Ok(cut(result)),
            (Err(error), _) => Err(error),
            (Ok(()), None) => Err(refused("nothing was kept")),
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let client = self.0.clone();
        // Each object is a step of its own, so a batch can fail after any of them.
        locations
            .then(move |location| {
                let client = client.clone();
                async move {
                    let location = location?;
                    client
                        .request("delete", location.as_ref(), |objects, clock| {
                            if objects.current(location.as_ref()).is_some() {
                                objects.write(location.as_ref(), clock, None);
                            }
                            Ok(())
                        })
                        .await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.pages(prefix, None)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.pages(prefix, Some(offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let under = prefix.map_or(String::new(), |p| p.as_ref().to_string());
        let skip = if under.is_empty() { 0 } else { under.len() + 1 };
        let mut pages = self.pages(prefix, None);
        let (mut objects, mut common) = (Vec::new(), BTreeSet::new());
        while let Some(meta) = pages.next().await {
            let meta = meta?;
            match meta.location.as_ref().get(skip..).and_then(|rest| rest.split_once('/')) {
                Some((dir, _)) => _ = common.insert(format!("{}{dir}", &meta.location.as_ref()[..skip])),
                None => objects.push(meta),
            }
        }
        let common_prefixes = common.into_iter().map(Path::from).collect();
        Ok(ListResult { common_prefixes, objects, extensions: Default::default() })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0
            .request("copy", from.as_ref(), |objects, clock| {
                let data = objects.current(from.as_ref()).map(|(_, data)| data.clone()).ok_or_else(|| missing(from))?;
                let mode = match options.mode {
                    CopyMode::Overwrite => PutMode::Overwrite,
                    CopyMode::Create => PutMode::Create,
                };
                put(objects, clock, to, data, &mode).map(|_| ())
            })
            .await
    }
}

/// An upload in parts: nothing is visible before `complete`.
struct Multipart {
    client: Arc<Client>,
    location: Path,
    upload: u64,
    next: u32,
}

impl fmt::Debug for Multipart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Multipart({})", self.location)
    }
}

fn no_upload(path: &Path) -> Error {
    Error::NotFound { path: path.to_string(), source: "no such upload".into() }
}

#[async_trait]
impl MultipartUpload for Multipart {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        let (client, location, upload, number) = (self.client.clone(), self.location.clone(), self.upload, self.next);
        self.next += 1;
        let data = Bytes::from(payload);
        async move {
            let keep = |objects: &mut Objects, _: &dyn Clock| {
                objects.uploads.get_mut(&upload).ok_or_else(|| no_upload(&location))?.parts.insert(number, data);
                Ok(())
            };
            client.request("put_part", location.as_ref(), keep).await
        }
        .boxed()
    }

    /// May be asked for again after an error; once it took effect, the upload is gone.
    async fn complete(&mut self) -> Result<PutResult> {
        let (location, upload, count) = (self.location.clone(), self.upload, self.next);
        let effect = |objects: &mut Objects, clock: &dyn Clock| {
            let parts = &objects.uploads.get(&upload).ok_or_else(|| no_upload(&location))?.parts;
            if parts.len() as u32 != count {
                return Err(refused("a part of the upload is missing"));
            }
            let data: Vec<u8> = parts.values().flatten().copied().collect();
            objects.uploads.remove(&upload);
            put(objects, clock, &location, data.into(), &PutMode::Overwrite)
        };
        self.client.request("complete", self.location.as_ref(), effect).await
    }

    async fn abort(&mut self) -> Result<()> {
        let upload = self.upload;
        let effect = |objects: &mut Objects, _: &dyn Clock| {
            objects.uploads.remove(&upload);
            Ok(())
        };
        self.client.request("abort", self.location.as_ref(), effect).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::StillClock;
    use crate::trace::Trace;
    use futures::executor::block_on;
    use futures::{TryStreamExt as _, poll};
    use object_store::ObjectStoreExt as _;

    fn store() -> (SimStore, Arc<dyn ObjectStore>) {
        let store = SimStore::new(Arc::new(StillClock));
        let trace = Trace::new(Arc::new(StillClock), 0..0).host("node", 0);
        let client = store.client(&RngSource::new(1), trace, Ledger::default(), Fuse::default());
        (store, client)
    }

    fn faults(change: impl FnOnce(&mut StoreFaults)) -> StoreFaults {
        let mut faults = StoreFaults::default();
        change(&mut faults);
        faults
    }

    #[test]
    fn an_error_after_the_effect_leaves_the_object() {
        let (store, client) = store();
        let path = Path::from("a");
        store.set_faults(faults(|f| f.error_before_ppm = 1_000_000));
        assert!(block_on(client.put(&path, "1".into())).is_err());
        assert!(store.snapshot(Mono(0)).is_empty());
        store.set_faults(faults(|f| f.error_after_ppm = 1_000_000));
        assert!(block_on(client.put(&path, "2".into())).is_err());
        assert_eq!(store.snapshot(Mono(0)).get("a").map(|b| &b[..]), Some(&b"2"[..]));
        store.set_faults(faults(|f| f.outage = true));
        assert!(block_on(client.get(&path)).is_err());
    }

    #[test]
    fn the_contract_holds() {
        let (_, client) = store();
        block_on(crate::contract::store::run(&*client));
    }

    #[test]
    fn conditional_writes_meet_conflicts_and_compare_tags() {
        let (store, client) = store();
        let path = Path::from("a");
        let put = |mode: PutMode| block_on(client.put_opts(&path, "x".into(), mode.into()));
        let first = put(PutMode::Create).expect("creates");
        assert!(matches!(put(PutMode::Create), Err(Error::AlreadyExists { .. })));
        let tag = |e_tag| PutMode::Update(object_store::UpdateVersion { e_tag, version: None });
        let second = put(tag(first.e_tag.clone())).expect("the tag is right");
        assert!(matches!(put(tag(first.e_tag)), Err(Error::Precondition { .. })), "the tag is of an older version");
        store.set_faults(faults(|f| f.conflict_ppm = 1_000_000));
        assert!(matches!(put(tag(second.e_tag)), Err(Error::Generic { .. })));
        put(PutMode::Overwrite).expect("meets no conflict");
    }

    #[test]
    fn a_body_can_break_off() {
        let (store, client) = store();
        let path = Path::from("a");
        block_on(client.put(&path, vec![7; 5 * PIECE].into())).expect("puts");
        let read = || block_on(async { client.get(&path).await?.bytes().await });
        assert_eq!(read().expect("reads").len(), 5 * PIECE);
        store.set_faults(faults(|f| f.error_after_ppm = 1_000_000));
        assert!((0..10).all(|_| read().is_err()));
        let begun = (0..10).filter(|_| block_on(client.get(&path)).is_ok()).count();
        assert!(begun > 0, "some fail while the body is read");
    }

    #[test]
    fn an_upload_in_parts_is_kept_until_it_ends() {
        let (store, client) = store();
        let path = Path::from("a");
        let mut upload = block_on(client.put_multipart(&path)).expect("begins");
        block_on(upload.put_part("abc".into())).expect("uploads");
        assert_eq!(store.unfinished_uploads(), ["a"]);
        store.set_faults(faults(|f| f.error_before_ppm = 1_000_000));
        block_on(upload.complete()).expect_err("fails before the effect");
        store.set_faults(faults(|_| {}));
        block_on(upload.complete()).expect("completes at the second try");
        assert!(store.unfinished_uploads().is_empty());
        assert_eq!(store.snapshot(Mono(0)).get("a").map(|b| &b[..]), Some(&b"abc"[..]));
    }

    #[test]
    fn a_silent_request_is_never_answered() {
        let (store, client) = store();
        store.set_faults(faults(|f| f.silent_ppm = 1_000_000));
        let path = Path::from("a");
        let mut put = Box::pin(client.put(&path, "1".into()));
        assert!(block_on(async { poll!(&mut put) }).is_pending());
    }

    #[test]
    fn a_delete_batch_can_fail_halfway() {
        let mut halfway = 0;
        let (store, client) = store();
        for _ in 0..20 {
            store.set_faults(StoreFaults::default());
            let paths: Vec<Path> = (0..10).map(|n| Path::from(format!("d/{n}"))).collect();
            for path in &paths {
                block_on(client.put(path, "x".into())).expect("puts");
            }
            store.set_faults(faults(|f| f.error_before_ppm = 200_000));
            let batch = stream::iter(paths.into_iter().map(Ok)).boxed();
            let result: Result<Vec<Path>> = block_on(client.delete_stream(batch).try_collect());
            let left = store.snapshot(Mono(0)).len();
            assert_eq!(result.is_ok(), left == 0);
            halfway += usize::from(left > 0 && left < 10);
        }
        assert!(halfway > 5, "{halfway}");
    }
}
