//! What the source asks of the cluster: which partitions there are, and where they start and stop.

use milena::{Offset, TopicPartition};

use super::chance::Met;
use super::life::Life;
use super::walk::{Stop, Walk, wrong};
use crate::progress::Position;
use crate::source::{Discovered, DiscoveredPartition, ResolveRequest, Resolved, StartRule};
use crate::{Error, ErrorKind};

pub(super) enum Lookup {
    Discover,
    Resolve(Vec<ResolveRequest>),
}

impl Walk {
    /// What was looked up comes back: all, in part, or not.
    pub(super) fn look_up(&mut self, life: &mut Life) -> Result<(), Stop> {
        if life.lookups.is_empty() {
            return Ok(());
        }
        let at = self.dice.index(life.lookups.len());
        let lookup = life.lookups.swap_remove(at);
        let failed = self.mishap(6);
        // A partition that a bounded source does not find at its start is not part of its input.
        let left_out = match lookup {
            Lookup::Discover => !self.setting.bounded && self.absences_left > 0 && self.mishap(6),
            Lookup::Resolve(_) => self.mishap(6),
        };
        if left_out && matches!(lookup, Lookup::Discover) {
            self.absences_left -= 1;
        }
        let error = || Error::new(ErrorKind::Timeout, "the answer was lost");
        let ends: Vec<_> = self.input.logs.iter().map(|(at, log)| (at.clone(), log.end)).collect();
        let left_out = left_out.then(|| ends[self.dice.index(ends.len())].0.clone());
        self.note(|| format!("looked up: failed {failed}, without {left_out:?}"));
        match lookup {
            Lookup::Discover => {
                let partitions = ends.into_iter().filter(|(at, _)| Some(at) != left_out.as_ref());
                let partitions =
                    partitions.map(|(at, _)| DiscoveredPartition { topic_partition: at, topic_id: None });
                let found = Discovered { partitions: partitions.collect(), missing: Vec::new() };
                life.enumerator.handle_discovered(self.now, if failed { Err(error()) } else { Ok(found) });
            }
            Lookup::Resolve(requests) => {
                let requests = self.starts(requests)?;
                let bounded = self.setting.bounded;
                let resolved = requests.into_iter().filter(|(request, _)| {
                    Some(&request.topic_partition) != left_out.as_ref() || request.start == StartRule::Kept
                });
                let resolved: Vec<_> = resolved.collect();
                for (request, start) in resolved.iter().filter(|_| !failed) {
                    self.begin_reading(life, &request.topic_partition, request.start, *start)?;
                }
                let resolved = resolved.into_iter().map(|(ResolveRequest { topic_partition, .. }, start)| {
                    let end = ends.iter().find(|(at, _)| *at == topic_partition).map_or(0, |(_, end)| *end);
                    let start = Position { offset: Offset(start), leader_epoch: None };
                    Resolved { topic_partition, start, stop: bounded.then_some(Offset(end)) }
                });
                let resolved = if failed { Err(error()) } else { Ok(resolved.collect()) };
                life.enumerator.handle_offsets_resolved(self.now, resolved);
            }
        }
        Ok(())
    }

    /// A partition is going to be read from its start, or, where everything was read to its stop, on to another one.
    fn begin_reading(
        &mut self,
        life: &mut Life,
        at: &TopicPartition,
        rule: StartRule,
        start: i64,
    ) -> Result<(), Stop> {
        let bounded = self.setting.bounded;
        let Some(log) = self.input.logs.get_mut(at) else { return Ok(()) };
        if rule != StartRule::Kept {
            log.begin(start, bounded.then_some(log.end));
            return Ok(());
        }
        let positions = self.durable.as_ref().map(|durable| &durable.positions);
        let position = |at: &TopicPartition| positions.and_then(|positions| positions.get(at)).copied();
        let Some(reached) = position(at) else { return wrong(format!("{at} is kept, and was never there")) };
        let has_ended = self.durable.as_ref().is_none_or(|durable| !durable.functions.contains_key(at));
        log.begin_again(reached, has_ended, log.end);
        life.wanted_stops.remove(at);
        if life.was_at_its_end {
            return Ok(());
        }
        wrong(format!("{at} is given another stop, and the job was cut off"))
    }

    /// Where the partitions asked for start: at their ends at this moment, or at their first offsets.
    fn starts(&mut self, requests: Vec<ResolveRequest>) -> Result<Vec<(ResolveRequest, i64)>, Stop> {
        let mut starts = Vec::new();
        for request in requests {
            let start = match request.start {
                StartRule::Configured if self.durable.is_some() => {
                    let at = request.topic_partition;
                    return wrong(format!("{at}: the start mode is used again after a restore"));
                }
                StartRule::Configured if self.setting.from_the_end => {
                    let end = self.input.logs.get(&request.topic_partition).map_or(0, |log| log.end);
                    if end > 0 {
                        self.met.insert(Met::AStartAtTheEnd);
                    }
                    end
                }
                _ => 0,
            };
            starts.push((request, start));
        }
        Ok(starts)
    }
}
