//! Doing many things at once whose outcomes have an order.

use tokio::task::JoinSet;

use super::copy::finished;

/// Does all of it, each as a task of its own, and gives what each came to, in their order. Dropped, it ends them.
pub async fn together<F>(work: impl IntoIterator<Item = F>) -> Vec<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for (at, one) in work.into_iter().enumerate() {
        tasks.spawn(async move { (at, one.await) });
    }
    let mut outcomes = Vec::with_capacity(tasks.len());
    while let Some(done) = tasks.join_next().await {
        outcomes.push(finished(done));
    }
    outcomes.sort_by_key(|(at, _)| *at);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}
