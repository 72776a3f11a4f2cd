//! How late something was during the last hour, in little memory. Pure.

use std::collections::VecDeque;
use std::time::Duration;

/// One value stands for so long.
pub(super) const STEP: Duration = Duration::from_secs(30);
/// An hour.
const MOST: usize = 120;

/// The worst of each step, oldest first, in tenths of seconds: up to an hour and 49
/// minutes, which an hour's chart shows as "all of it".
#[derive(Debug, Default)]
pub(super) struct Ring {
    /// So many steps in time come first.
    in_time: usize,
    /// Begins with one that was not. So nothing is kept of what never is late.
    values: VecDeque<u16>,
    /// The step of the newest.
    step: u64,
}

impl Ring {
    /// So late at this moment, told as the time since the start of the program.
    pub(super) fn add(&mut self, since: Duration, lag: Duration) {
        let value = u16::try_from(lag.as_millis() / 100).unwrap_or(u16::MAX);
        let step = since.as_secs() / STEP.as_secs();
        let again = self.steps() > 0 && step == self.step;
        let (value, times) = match again {
            true => (value.max(self.take_newest()), 1),
            // Steps that nobody looked at were as the one after them.
            false => {
                let missed = if self.steps() == 0 { 0 } else { step.saturating_sub(self.step + 1) };
                (value, usize::try_from(missed).unwrap_or(MOST).min(MOST) + 1)
            }
        };
        self.step = step;
        self.values.extend(std::iter::repeat_n(value, times));
        while self.values.len() > MOST {
            self.values.pop_front();
        }
        while self.values.front() == Some(&0) {
            self.values.pop_front();
            self.in_time += 1;
        }
        if self.values.is_empty() {
            self.values = VecDeque::new();
        }
        self.in_time = self.in_time.min(MOST - self.values.len());
    }

    /// Nobody had to look at it until then, because nothing waited.
    pub(super) fn was_in_time(&mut self, until: Duration) {
        if self.steps() > 0 {
            self.add(until, Duration::ZERO);
        }
    }

    fn steps(&self) -> usize {
        self.in_time + self.values.len()
    }

    fn take_newest(&mut self) -> u16 {
        self.values.pop_back().unwrap_or_else(|| {
            self.in_time -= 1;
            0
        })
    }

    /// In seconds, oldest first.
    pub(super) fn seconds(&self) -> Vec<f32> {
        let in_time = std::iter::repeat_n(&0, self.in_time);
        in_time.chain(&self.values).map(|tenths| f32::from(*tenths) / 10.0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_kept_and_each_step_shows_its_worst() {
        let mut ring = Ring::default();
        for second in 0..3000 {
            ring.add(Duration::from_secs(second), Duration::ZERO);
        }
        assert_eq!((ring.seconds(), ring.values.capacity()), (vec![0.0; 100], 0));
        for second in 3000..7200 {
            ring.add(Duration::from_secs(second), Duration::from_millis(if second % 30 == 7 { 1500 } else { 0 }));
        }
        assert_eq!(ring.seconds(), [1.5; MOST]);
        ring.was_in_time(Duration::from_secs(7199));
        assert_eq!(ring.seconds(), [1.5; MOST], "what was seen counts");
        ring.add(Duration::from_secs(7290), Duration::from_secs(1 << 20));
        let seconds = ring.seconds();
        assert_eq!((seconds.len(), seconds[MOST - 5], seconds[MOST - 4]), (MOST, 1.5, 6553.5));
        ring.was_in_time(Duration::from_secs(7350));
        ring.add(Duration::from_secs(7380), Duration::from_secs(1));
        assert_eq!(ring.seconds()[MOST - 4..], [6553.5, 0.0, 0.0, 1.0]);
    }
}
