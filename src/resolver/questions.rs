//! The questions about crawlers that wait for their lookup, in an order that is fair to the networks that they are about. A stranger decides how
//! slowly the name server of its own network answers, and must not hold up the questions about others.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::crawler::{Asked, Question};

/// Maximum number of questions that wait.
const MAX_WAITING: usize = 1000;
/// Of these, about one /24 (IPv6: /48): many times what a crawler has there.
const MAX_OF_NETWORK: usize = 32;
/// Maximum number of lookups at a time that are about one network, and about one /16 (IPv6: /32), which is often one zone of one name server.
const MAX_RUNNING: usize = 2;
const MAX_RUNNING_WIDE: usize = 4;

/// What waits, and what is being looked up.
#[derive(Default)]
pub struct Questions {
    waiting: HashMap<IpNet, VecDeque<Question>>,
    /// Networks with waiting questions, the one that has waited for its turn for longest first.
    turns: VecDeque<IpNet>,
    number: usize,
    running: HashMap<IpNet, usize>,
}

impl Questions {
    /// Adds a question. A full queue takes one of a new network in place of the latest one of the network that has most.
    pub fn add(&mut self, question: Question) -> Asked {
        let (network, _) = networks(question.address);
        let of_network = self.waiting.get(&network).map_or(0, VecDeque::len);
        if of_network >= MAX_OF_NETWORK {
            return Asked::Full;
        }
        let mut displaced = None;
        if self.number >= MAX_WAITING {
            let longest =
                self.waiting.values_mut().max_by_key(|questions| questions.len()).filter(|longest| longest.len() > of_network + 1);
            let Some(longest) = longest else { return Asked::Full };
            displaced = longest.pop_back();
            self.number -= 1;
        }
        if of_network == 0 {
            self.turns.push_back(network);
        }
        self.waiting.entry(network).or_default().push_back(question);
        self.number += 1;
        displaced.map_or(Asked::Queued, Asked::InPlaceOf)
    }

    /// Whether the lookup of a waiting question may begin.
    pub fn may_begin(&self) -> bool {
        self.next().is_some()
    }

    /// The place in `turns` of the network whose turn it is.
    fn next(&self) -> Option<usize> {
        let is_busy = |network: &IpNet, most: usize| self.running.get(network).is_some_and(|running| *running >= most);
        self.turns.iter().position(|network| !is_busy(network, MAX_RUNNING) && !is_busy(&networks(network.addr()).1, MAX_RUNNING_WIDE))
    }

    /// Takes the next question whose lookup may begin; each network in turn.
    pub fn take(&mut self) -> Option<Question> {
        let network = self.turns.remove(self.next()?)?;
        let questions = self.waiting.get_mut(&network)?;
        let question = questions.pop_front();
        if questions.is_empty() {
            self.waiting.remove(&network);
        } else {
            self.turns.push_back(network);
        }
        self.number -= usize::from(question.is_some());
        let (network, wide) = networks(network.addr());
        for network in [network, wide] {
            *self.running.entry(network).or_default() += 1;
        }
        question
    }

    /// Notes that the lookup of an address that was taken has ended.
    pub fn finish(&mut self, address: IpAddr) {
        let (network, wide) = networks(address);
        for network in [network, wide] {
            if let Some(running) = self.running.get_mut(&network) {
                *running = running.saturating_sub(1);
                if *running == 0 {
                    self.running.remove(&network);
                }
            }
        }
    }
}

/// The network of an address that is treated as one, and the wider one around it.
fn networks(address: IpAddr) -> (IpNet, IpNet) {
    let address = address.to_canonical();
    let (near, wide) = if address.is_ipv4() { (24, 16) } else { (48, 32) };
    let network = |length| IpNet::new(address, length).map_or_else(|_| address.into(), |network| network.trunc());
    (network(near), network(wide))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crawler::known;
    use crate::list::Networks;
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    fn question(address: &str) -> Question {
        let crawler = Arc::new(known::find("googlebot").unwrap().crawler(Networks::default()));
        Question { address: address.parse().unwrap(), crawler }
    }

    fn add(questions: &mut Questions, address: &str) -> String {
        match questions.add(question(address)) {
            Asked::Queued => "queued".into(),
            Asked::InPlaceOf(other) => other.address.to_string(),
            Asked::Full => "full".into(),
        }
    }

    fn take(questions: &mut Questions) -> Option<String> {
        questions.take().map(|question| question.address.to_string())
    }

    #[test]
    fn each_network_has_its_turn_and_holds_up_no_other() {
        let mut questions = Questions::default();
        for address in ["192.0.2.1", "192.0.2.2", "192.0.2.3", "198.51.100.1", "2001:db8::1"] {
            add(&mut questions, address);
        }
        let order: Vec<_> = std::iter::from_fn(|| take(&mut questions)).collect();
        assert_eq!(order, ["192.0.2.1", "198.51.100.1", "2001:db8::1", "192.0.2.2"], "two of a network run at a time");
        questions.finish("198.51.100.1".parse().unwrap());
        assert_eq!(take(&mut questions), None);
        assert!(!questions.may_begin(), "a third of the network waits, and needs no thread yet");
        questions.finish("192.0.2.1".parse().unwrap());
        assert_eq!(take(&mut questions).as_deref(), Some("192.0.2.3"));
        for address in ["192.0.2.2", "192.0.2.3", "2001:db8::1"] {
            questions.finish(address.parse().unwrap());
        }
        assert!(questions.running.is_empty() && questions.waiting.is_empty() && questions.turns.is_empty() && questions.number == 0);
    }

    #[test]
    fn one_zone_with_a_slow_name_server_leaves_threads_for_others() {
        let mut questions = Questions::default();
        (0..99).for_each(|network| _ = add(&mut questions, &format!("198.51.{network}.1")));
        add(&mut questions, "192.0.2.1");
        let taken: Vec<_> = std::iter::from_fn(|| take(&mut questions)).collect();
        assert_eq!((taken.len(), taken.last().map(String::as_str)), (MAX_RUNNING_WIDE + 1, Some("192.0.2.1")));
    }

    #[test]
    fn a_full_queue_takes_a_new_network_in_place_of_one_with_many_questions() {
        let mut questions = Questions::default();
        for number in 0..u32::try_from(MAX_OF_NETWORK).unwrap() {
            assert_eq!(add(&mut questions, &Ipv4Addr::from(0xc633_6400 + number).to_string()), "queued");
        }
        assert_eq!(add(&mut questions, "198.51.100.99"), "full", "for its network");
        for number in 0..u32::try_from(MAX_WAITING - MAX_OF_NETWORK).unwrap() {
            assert_eq!(add(&mut questions, &Ipv4Addr::from(0x0a00_0000 + (number << 8)).to_string()), "queued");
        }
        assert_eq!(add(&mut questions, "192.0.2.1"), "198.51.100.31");
        for number in 30..61 {
            let answer = add(&mut questions, &format!("203.0.{number}.1"));
            assert_eq!(answer, if number < 60 { format!("198.51.100.{}", 60 - number) } else { "full".into() }, "each network keeps one");
        }
        let all: usize = questions.waiting.values().map(VecDeque::len).sum();
        assert_eq!((all, questions.number), (MAX_WAITING, MAX_WAITING));
    }
}
