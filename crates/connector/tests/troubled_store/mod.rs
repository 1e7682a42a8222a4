//! An object store in memory that fails, loses answers, or hangs.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::watch;

/// What happens at the request of the number that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    None,
    /// It and all after it fail.
    Dies,
    /// It is carried out and its answer lost, and all after it fail.
    DiesAfter,
    /// It is carried out and its answer lost.
    LosesAnAnswer,
    /// If it puts something, it is carried out twice, as by a client that repeats what was not answered.
    SendsTwice,
}

/// Clones share all of it.
#[derive(Clone, Debug)]
pub(crate) struct Troubled {
    inner: Arc<InMemory>,
    trouble: Trouble,
    at: usize,
    requests: Arc<AtomicUsize>,
    /// How many requests may still pass.
    gate: watch::Sender<usize>,
}

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Passes,
    Fails,
    LosesItsAnswer,
    GoesTwice,
}

impl Troubled {
    pub(crate) fn new(inner: Arc<InMemory>, trouble: Trouble, at: usize) -> Self {
        Self { inner, trouble, at, requests: Arc::default(), gate: watch::Sender::new(usize::MAX) }
    }

    /// Whether so many requests were made.
    pub(crate) fn has_struck(&self) -> bool {
        self.requests() > self.at
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Lets so many more requests pass; those after them hang.
    pub(crate) fn close_after(&self, requests: usize) {
        self.gate.send_replace(requests);
    }

    pub(crate) fn open(&self) {
        self.gate.send_replace(usize::MAX);
    }

    async fn fate(&self) -> Fate {
        loop {
            let mut passes = false;
            self.gate.send_if_modified(|left| {
                passes = *left > 0;
                *left = left.saturating_sub(usize::from(*left != usize::MAX));
                false
            });
            if passes {
                break;
            }
            let mut gate = self.gate.subscribe();
            gate.wait_for(|left| *left > 0).await.unwrap();
        }
        let number = self.requests.fetch_add(1, Ordering::SeqCst);
        match self.trouble {
            Trouble::Dies if number >= self.at => Fate::Fails,
            Trouble::DiesAfter if number > self.at => Fate::Fails,
            Trouble::DiesAfter | Trouble::LosesAnAnswer if number == self.at => Fate::LosesItsAnswer,
            Trouble::SendsTwice if number == self.at => Fate::GoesTwice,
            _ => Fate::Passes,
        }
    }

    async fn request<T>(&self, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let fate = self.fate().await;
        if fate == Fate::Fails {
            return Err(lost());
        }
        let done = work.await;
        if fate == Fate::LosesItsAnswer { Err(lost()) } else { done }
    }
}

fn lost() -> Error {
    Error::Generic { store: "troubled", source: "no answer".into() }
}

impl fmt::Display for Troubled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Troubled")
    }
}

#[async_trait]
impl ObjectStore for Troubled {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let fate = self.fate().await;
        if fate == Fate::Fails {
            return Err(lost());
        }
        let mut done = self.inner.put_opts(path, payload.clone(), options.clone()).await;
        if fate == Fate::GoesTwice {
            done = self.inner.put_opts(path, payload, options).await;
        }
        if fate == Fate::LosesItsAnswer { Err(lost()) } else { done }
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.request(self.inner.put_multipart_opts(path, options)).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.request(self.inner.get_opts(path, options)).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let own = self.clone();
        paths
            .then(move |path| {
                let own = own.clone();
                async move {
                    let path = path?;
                    let deleting = async {
                        let mut one = own.inner.delete_stream(stream::iter([Ok(path.clone())]).boxed());
                        one.next().await.unwrap_or(Ok(path))
                    };
                    own.request(deleting).await
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        // A stream has no place to wait in before it is made; the list itself is one request.
        let own = self.clone();
        let prefix = prefix.cloned();
        stream::once(async move {
            let listing = async { Ok(own.inner.list(prefix.as_ref()).collect::<Vec<_>>().await) };
            match own.request(listing).await {
                Ok(found) => found,
                Err(error) => vec![Err(error)],
            }
        })
        .flat_map(stream::iter)
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.request(self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.request(self.inner.copy_opts(from, to, options)).await
    }
}
