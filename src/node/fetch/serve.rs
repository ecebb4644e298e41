//! The life of the side door's thread: it waits for questions, fetches that end, and the time, and lets the door decide.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinHandle, JoinSet, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval};

use super::client::{Client, Fetched};
use super::command::{self, Command};
use super::counts::Counts;
use super::door::{Answers, Brought, Door, Job, Moment};
use super::keeper::{FirstLook, Keeper, fetch_lists};
use super::memory::{Memory, Page};
use super::{Answered, Chain, Config, FetchError, Question};
use crate::cert::{CertificateError, ChainVerdict};
use crate::node::clock;
use crate::node::trust::Desk;
use crate::stir::verification::Credential;

/// How often the door looks at the time.
const TICK: Duration = Duration::from_millis(250);

/// Where questions come in.
pub(super) struct Inlets {
    pub questions: mpsc::Receiver<Question>,
    pub lacks: mpsc::Receiver<Arc<Credential>>,
    pub orders: mpsc::Receiver<Command>,
    /// Other settings for CRLs and lists.
    pub changes: watch::Receiver<Config>,
}

/// Who waits for an answer.
pub(super) struct Asker {
    id: u64,
    answer_to: mpsc::Sender<Answered>,
}

impl Asker {
    fn hear(self, result: Result<Chain, FetchError>) {
        // A worker that is gone or drowning gets no answer: the deadline of its need ends the wait.
        let _ = self.answer_to.try_send(Answered { id: self.id, result });
    }
}

fn moment() -> Moment {
    Moment { instant: clock::instant(), unix: clock::unix() }
}

pub(super) async fn serve(
    config: Config,
    tls: Arc<rustls::ClientConfig>,
    desk: Arc<Desk>,
    counts: Arc<Counts>,
    inlets: Inlets,
) {
    let Inlets { mut questions, mut lacks, mut orders, mut changes } = inlets;
    let client = Arc::new(Client::new(config.clone(), tls));
    let mut keeper = Keeper::new(&config, Arc::clone(&client), Arc::clone(&desk));
    let mut memory = Memory::new(&config, Arc::clone(&desk));
    let mut door: Door<Asker> = Door::new(config.clone(), counts);
    memory.restore(&mut door, moment());
    // Whatever ends this future, the cache is written once more.
    let mut house = House { door, memory };
    let mut fetches = Fetches::default();
    let (mut tick, mut save) = (interval(TICK), interval(config.save_interval.max(Duration::from_secs(1))));
    [&mut tick, &mut save].into_iter().for_each(|timer| timer.set_missed_tick_behavior(MissedTickBehavior::Delay));
    let (mut answers, mut saving): (Answers<Asker>, _) = (Vec::new(), None::<JoinHandle<()>>);
    loop {
        while let Some(job) = house.door.next_job(moment(), &mut answers) {
            fetches.begin(job, keeper.max_lists(), Arc::clone(&client), Arc::clone(&desk));
        }
        answers.drain(..).for_each(|(asker, result)| asker.hear(result));
        tokio::select! {
            question = questions.recv() => {
                let Some(Question { id, x5u, deadline, answer_to }) = question else { return };
                answers.extend(house.door.ask(moment(), &x5u, Asker { id, answer_to }, deadline));
            }
            Some((url, result)) = fetches.next() => {
                let brought = result.map(|Looked { brought, credential, lists }| {
                    lists.into_iter().for_each(|list| keeper.adopt(list));
                    keeper.want(&credential);
                    brought
                });
                answers.extend(house.door.finish(moment(), &url, brought));
            }
            Some(credential) = lacks.recv() => keeper.want(&credential),
            Some(order) = orders.recv() => command::obey(order, &mut house.door, &mut keeper, &desk, moment()),
            Ok(()) = changes.changed() => keeper.configure(changes.borrow_and_update().clone()),
            () = keeper.work() => {}
            _ = tick.tick() => {
                house.door.tick(moment(), &mut answers);
                keeper.tick(clock::unix());
            }
            _ = save.tick() => {
                if saving.as_ref().is_none_or(JoinHandle::is_finished) {
                    let page = house.memory.page(&house.door, clock::unix());
                    saving = page.map(|page| spawn_blocking(|| page.write()));
                }
            }
        }
    }
}

/// The door, and what writes its cache down at the end.
struct House {
    door: Door<Asker>,
    memory: Memory,
}

impl Drop for House {
    fn drop(&mut self) {
        // One that is being written is waited for.
        self.memory.page(&self.door, clock::unix()).into_iter().for_each(Page::write);
    }
}

/// What a fetch brought, what became of it, and the lists that were fetched with it.
struct Looked {
    brought: Brought,
    credential: Arc<Credential>,
    lists: Vec<FirstLook>,
}

/// The fetches under way.
#[derive(Default)]
struct Fetches {
    tasks: JoinSet<Result<Looked, FetchError>>,
    urls: HashMap<Id, Arc<str>>,
}

impl Fetches {
    fn begin(&mut self, job: Job, max_lists: usize, client: Arc<Client>, desk: Arc<Desk>) {
        let Job { url, target } = job;
        let task = self.tasks.spawn(async move {
            let fetched = client.fetch(&target).await?;
            Ok(look_at(fetched, max_lists, &client, &desk).await)
        });
        self.urls.insert(task.id(), url);
    }

    /// The next that ends; none while there is none under way.
    async fn next(&mut self) -> Option<(Arc<str>, Result<Looked, FetchError>)> {
        let (id, result) = match self.tasks.join_next_with_id().await? {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(%error, "a fetch panicked");
                (error.id(), Err(FetchError::Http))
            }
        };
        Some((self.urls.remove(&id)?, result))
    }
}

/// Judges a chain as workers will, and fetches the TNAuthLists that it names by reference (certificates dossier section 2 item 12).
async fn look_at(fetched: Fetched, max_lists: usize, client: &Client, desk: &Desk) -> Looked {
    let Fetched { certificates, fresh } = fetched;
    let mut chain = desk.current().assess(&certificates);
    let missing = chain.as_ref().map_or(&[][..], ChainVerdict::missing_lists).to_vec();
    let mut lists = Vec::new();
    if !missing.is_empty() {
        let not_after = chain.as_ref().map_or(0, |chain| chain.leaf.not_after());
        lists = fetch_lists(&missing, not_after, max_lists, client, desk).await;
        chain = desk.current().assess(&certificates);
    }
    let is_trusted = chain.as_ref().is_ok_and(|chain| chain.path.is_ok());
    let not_after = leaf_end(&chain, &certificates);
    let brought = Brought { certificates, fresh, not_after, is_trusted };
    Looked { brought, credential: Arc::new(Credential { chain }), lists }
}

/// End of the leaf's validity, or of the whole path's.
fn leaf_end(chain: &Result<ChainVerdict, CertificateError>, certificates: &[Vec<u8>]) -> i64 {
    match chain {
        Ok(chain) => chain.holds_until(),
        // A leaf that can not be judged is still kept as a failure is.
        Err(_) => {
            let leaf = certificates.first().and_then(|leaf| crate::cert::Certificate::from_der(leaf).ok());
            leaf.map_or(0, |leaf| leaf.not_after())
        }
    }
}
