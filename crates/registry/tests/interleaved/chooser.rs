//! Who continues next: every order within a bound, or one at random.

use jreg_storage::testing::Stopped;

/// One thing that can happen next, and how much it deviates from the plainest run, in which the actor that
/// has begun continues to his end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScheduleStep {
    Go(usize),
    /// The clock continues.
    Tick,
    /// Who went on last has stopped for ever.
    Kill(usize),
}

/// A move with its cost.
pub(crate) type StepOffer = (ScheduleStep, usize);

/// Decides what happens next.
pub(crate) trait StepChooser: Send {
    /// Which of the moves; the first costs nothing.
    fn choose(&mut self, offers: &[StepOffer], stopped: &[Stopped]) -> usize;

    /// Which of so many calls that one actor makes at the same time.
    fn pick(&mut self, calls: usize) -> usize;
}

#[derive(Clone, Debug)]
struct SearchDecision {
    chosen: usize,
    costs: Vec<usize>,
}

/// All runs that deviate from the plainest at most so often, one after the other. Each run begins
/// anew and follows the decisions of the one before up to the last that can be made otherwise.
#[derive(Debug)]
pub(crate) struct ExhaustiveSearch {
    path: Vec<SearchDecision>,
    at: usize,
    deviations_max: usize,
}

impl ExhaustiveSearch {
    pub(crate) fn new(deviations_max: usize) -> Self {
        Self { path: Vec::new(), at: 0, deviations_max }
    }

    /// Continues to the next run. `false`: there is none.
    pub(crate) fn next(&mut self) -> bool {
        self.path.truncate(self.at);
        self.at = 0;
        while let Some(last) = self.path.pop() {
            let spent: usize = self.path.iter().map(|d| d.costs[d.chosen]).sum();
            let affordable = |next: &usize| spent + last.costs[*next] <= self.deviations_max;
            if let Some(chosen) = (last.chosen + 1..last.costs.len()).find(affordable) {
                self.path.push(SearchDecision { chosen, ..last });
                return true;
            }
        }
        false
    }
}

impl StepChooser for ExhaustiveSearch {
    fn choose(&mut self, offers: &[StepOffer], _stopped: &[Stopped]) -> usize {
        let costs: Vec<_> = offers.iter().map(|(_, cost)| *cost).collect();
        match self.path.get_mut(self.at) {
            // Names that are made anew for each run may order its calls otherwise.
            Some(known) if known.costs != costs => {
                known.chosen = known.chosen.min(costs.len() - 1);
                known.costs = costs;
            }
            Some(_) => {}
            None => self.path.push(SearchDecision { chosen: 0, costs }),
        }
        self.at += 1;
        self.path[self.at - 1].chosen
    }

    fn pick(&mut self, _calls: usize) -> usize {
        0
    }
}

/// One run at random.
#[derive(Debug)]
pub(crate) struct RandomChooser {
    state: u64,
    /// Percentage of steps in which the last actor continues.
    staying_percent: u64,
}

impl RandomChooser {
    pub(crate) fn new(seed: u64) -> Self {
        let staying_percent = [0, 60, 85, 95][usize::try_from(seed % 4).unwrap()];
        Self {
            state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66_D1CE_4E5B,
            staying_percent,
        }
    }

    /// SplitMix64.
    fn below(&mut self, sides: usize) -> usize {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % sides as u64).unwrap()
    }
}

impl StepChooser for RandomChooser {
    fn choose(&mut self, offers: &[StepOffer], _stopped: &[Stopped]) -> usize {
        let happens = (self.below(100) as u64) < 6;
        let is_rare = |(mv, _): &StepOffer| !matches!(mv, ScheduleStep::Go(_));
        let rare: Vec<_> = (0..offers.len()).filter(|n| is_rare(&offers[*n])).collect();
        if happens && !rare.is_empty() {
            return rare[self.below(rare.len())];
        }
        let goes = offers.len() - rare.len();
        let stays = (self.below(100) as u64) < self.staying_percent;
        if stays { 0 } else { self.below(goes) }
    }

    fn pick(&mut self, calls: usize) -> usize {
        self.below(calls)
    }
}

/// One certain run: each actor continues until it is about to make such a call for the n-th time,
/// or to its end.
#[derive(Debug)]
pub(crate) struct ScriptedOrder {
    steps: Vec<(usize, &'static str, usize)>,
}

impl ScriptedOrder {
    /// Who, until which call, as "operation prefix-of-the-key", how often; in their order.
    pub(crate) fn new(steps: &[(usize, &'static str, usize)]) -> Self {
        Self { steps: steps.iter().rev().copied().collect() }
    }
}

impl StepChooser for ScriptedOrder {
    fn choose(&mut self, offers: &[StepOffer], stopped: &[Stopped]) -> usize {
        while let Some((actor, until, times)) = self.steps.last_mut() {
            let Some(at) = stopped.iter().find(|stopped| stopped.actor == *actor) else {
                self.steps.pop();
                continue;
            };
            *times -= usize::from(at.to_string().starts_with(*until));
            if *times == 0 {
                self.steps.pop();
                continue;
            }
            let goes = ScheduleStep::Go(*actor);
            return offers.iter().position(|(offered, _)| *offered == goes).unwrap();
        }
        0
    }

    fn pick(&mut self, _calls: usize) -> usize {
        0
    }
}
