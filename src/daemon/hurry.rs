//! That the end of a run has come, for all who wait for something in it: from then
//! on nobody does.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Begins once and stays.
#[derive(Debug, Default)]
pub(super) struct Hurry {
    begun: AtomicBool,
    news: Notify,
}

impl Hurry {
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::SeqCst);
        self.news.notify_waiters();
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst)
    }

    /// Waits until it begins, or has begun.
    pub(super) async fn begins(&self) {
        // From here on a notification is not missed.
        let news = self.news.notified();
        if !self.has_begun() {
            news.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nobody_waits_on() {
        for _ in 0..500 {
            let hurry = Arc::new(Hurry::default());
            let waiting: Vec<_> = (0..3)
                .map(|_| {
                    tokio::spawn({
                        let hurry = hurry.clone();
                        async move { hurry.begins().await }
                    })
                })
                .collect();
            assert!(!hurry.has_begun());
            hurry.begin();
            for one in waiting.into_iter().chain([tokio::spawn(async move { hurry.begins().await })]) {
                tokio::time::timeout(Duration::from_secs(30), one).await.expect("it has begun").unwrap();
            }
        }
    }
}
