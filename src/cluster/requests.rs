//! The questions to other servers that are open: a pure data structure.

use std::collections::{HashMap, HashSet};

use tokio::sync::mpsc;

use super::message::{RequestId, ServerId};
use crate::hub::other_servers::Answer;
use crate::protocol::NamespaceName;
use crate::shrink::shrink;

/// The open questions.
#[derive(Debug, Default)]
pub(super) struct Requests {
    open: HashMap<RequestId, Request>,
}

#[derive(Debug)]
struct Request {
    namespace: NamespaceName,
    /// `None` if all answers have arrived.
    answers: Option<mpsc::UnboundedSender<Answer>>,
    /// The number of servers that were asked. `None` until the broker has counted them.
    expected: Option<usize>,
    /// The number of servers that have answered and are alive.
    answered: usize,
    /// The servers whose ids are known from their answers.
    known: HashMap<ServerId, Asked>,
    /// The acknowledgements that are still to come from all other servers. It is negative while a
    /// server has not said how many clients it has asked.
    acks: i64,
    /// Whether fewer servers were counted than were asked.
    is_lowered: bool,
}

/// A server that was asked.
#[derive(Debug, Default)]
struct Asked {
    has_answered: bool,
    /// The acknowledgements that are still to come, as in [`Request`].
    acks: i64,
}

/// What is to be counted again while questions wait.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Recount {
    /// The servers that may have died.
    pub(super) servers: HashSet<(NamespaceName, ServerId)>,
    pub(super) namespaces: HashSet<NamespaceName>,
}

/// The end of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// Whether answers were still to come.
    pub(super) is_early: bool,
    /// The number of servers that have not answered. `None` if they were not counted.
    pub(super) missing: Option<usize>,
}

/// An answer that no question expects.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unexpected;

impl Requests {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Returns whether a question waits for answers.
    #[cfg(any(feature = "postgres", feature = "redis"))]
    pub(super) fn is_open(&self, id: &str) -> bool {
        let request = self.open.get(id);
        request.is_some_and(|request| request.answers.is_some())
    }

    /// Opens a question.
    pub(super) fn open(
        &mut self,
        id: RequestId,
        namespace: NamespaceName,
    ) -> mpsc::UnboundedReceiver<Answer> {
        let (answers, receiver) = mpsc::unbounded_channel();
        let request = Request {
            namespace,
            answers: Some(answers),
            expected: None,
            answered: 0,
            known: HashMap::new(),
            acks: 0,
            is_lowered: false,
        };
        self.open.insert(id, request);
        receiver
    }

    /// Ends a question. Returns `None` if it has ended.
    pub(super) fn end(&mut self, id: &RequestId) -> Option<Ended> {
        let request = self.open.remove(id)?;
        shrink(&mut self.open);
        let missing = |expected: usize| expected.saturating_sub(request.answered);
        Some(Ended {
            is_early: request.answers.is_some(),
            missing: request.expected.map(missing),
        })
    }

    /// Sets how many other servers were asked.
    pub(super) fn expect(&mut self, id: &RequestId, servers: usize) {
        if let Some(request) = self.open.get_mut(id) {
            request.expected = Some(servers);
            request.check();
        }
    }

    /// Records how many other servers of a namespace there are now. That can only lower the number of
    /// those that were asked: a server that has come since was not asked.
    pub(super) fn recounted(&mut self, namespace: &NamespaceName, servers: usize) {
        for request in self.open.values_mut() {
            let Some(expected) = request.expected.filter(|_| request.namespace == *namespace)
            else {
                continue;
            };
            if servers >= expected {
                continue;
            }
            // It is not known which server has died if one of them has not told its id with its answer.
            // Others, which are alive, then get some time to answer.
            let known = request.known.values().filter(|asked| asked.has_answered);
            if known.count() < request.answered && !request.is_lowered {
                request.is_lowered = true;
                continue;
            }
            if servers < request.answered {
                request.acks = request.acks.min(0);
            }
            request.expected = Some(servers);
            request.check();
        }
    }

    /// Records that a server of a namespace has died. Its clients do not answer any longer.
    pub(super) fn died(&mut self, namespace: &NamespaceName, server: &ServerId) {
        for request in self.open.values_mut() {
            if request.namespace != *namespace {
                continue;
            }
            if let Some(asked) = request.known.remove(server) {
                if asked.has_answered {
                    request.answered -= 1;
                    request.expected = request.expected.map(|n| n.saturating_sub(1));
                }
                request.check();
            }
        }
    }

    /// Ends the wait for answers, because the broker could not send the question.
    pub(super) fn fail(&mut self, id: &RequestId) {
        if let Some(request) = self.open.get_mut(id) {
            request.answers = None;
        }
    }

    /// Ends the wait of all questions.
    pub(super) fn fail_all(&mut self) {
        for request in self.open.values_mut() {
            request.expected = None;
            request.answers = None;
        }
    }

    /// Passes an answer to its question. `from` is the server, if its answer says so.
    ///
    /// # Errors
    ///
    /// Fails if no question expects the answer.
    pub(super) fn answer(
        &mut self,
        id: &RequestId,
        from: Option<&ServerId>,
        answer: Answer,
    ) -> Result<(), Unexpected> {
        let request = self.open.get_mut(id).ok_or(Unexpected)?;
        let answers = request.answers.as_ref().ok_or(Unexpected)?;
        if matches!(answer, Answer::Rooms(_) | Answer::Ids(_) | Answer::Done) {
            // This server asks no such question.
            return Err(Unexpected);
        }
        let mut of_unknown = Asked::default();
        let asked = match from {
            Some(from) => request.known.entry(ServerId::clone(from)).or_default(),
            None => &mut of_unknown,
        };
        let is_about_client = matches!(answer, Answer::Ack(..) | Answer::Left);
        if !is_about_client {
            if asked.has_answered {
                return Err(Unexpected);
            }
            asked.has_answered = true;
        }
        match answer {
            Answer::Clients(clients) => asked.acks += clients as i64,
            Answer::Ack(..) | Answer::Left => asked.acks -= 1,
            Answer::Sockets(_) | Answer::Reply(_) => {}
            Answer::Rooms(_) | Answer::Ids(_) | Answer::Done | Answer::HandedOver(_) => {}
        }
        request.acks += of_unknown.acks;
        request.answered += usize::from(!is_about_client);
        // An error means that the waiting task is gone.
        let _ = answers.send(answer);
        request.check();
        Ok(())
    }

    /// Returns what is to be counted again, so that a server that has died is not waited for.
    pub(super) fn recount(&self) -> Recount {
        let mut recount = Recount::default();
        for request in self.open.values() {
            if request.answers.is_none() || request.expected.is_none() {
                continue;
            }
            for server in request.known.keys() {
                let server = ServerId::clone(server);
                recount.servers.insert((request.namespace.clone(), server));
            }
            recount.namespaces.insert(request.namespace.clone());
        }
        recount
    }
}

impl Request {
    /// Ends the answers if all have arrived.
    fn check(&mut self) {
        let has_all = self
            .expected
            .is_some_and(|expected| self.answered >= expected);
        let acks = self.acks <= 0 && self.known.values().all(|asked| asked.acks <= 0);
        if has_all && acks {
            self.answers = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Payload;
    use crate::shrink::is_shrunk;

    fn id(text: &str) -> RequestId {
        text.into()
    }

    fn ended(answers: &mut mpsc::UnboundedReceiver<Answer>) -> bool {
        loop {
            match answers.try_recv() {
                Ok(_) => {}
                Err(mpsc::error::TryRecvError::Empty) => return false,
                Err(mpsc::error::TryRecvError::Disconnected) => return true,
            }
        }
    }

    fn sockets() -> Answer {
        Answer::Sockets(Vec::new())
    }

    fn missing(requests: &mut Requests, id: &RequestId) -> Option<usize> {
        requests.end(id).expect("it is open").missing
    }

    fn ack() -> Answer {
        Answer::Ack(None, Payload::default())
    }

    #[test]
    fn a_question_ends_when_each_server_has_answered() {
        let mut requests = Requests::default();
        let q = id("q");
        let mut answers = requests.open(id("q"), NamespaceName::MAIN);
        assert_eq!(requests.answer(&q, Some(&id("a")), sockets()), Ok(()));
        assert!(!ended(&mut answers));
        requests.expect(&q, 2);
        assert!(!ended(&mut answers));
        assert_eq!(requests.answer(&q, Some(&id("b")), sockets()), Ok(()));
        assert!(ended(&mut answers));
        assert_eq!(missing(&mut requests, &q), Some(0));
    }

    #[test]
    fn a_question_to_nobody_ends_at_once() {
        let mut requests = Requests::default();
        let mut answers = requests.open(id("q"), NamespaceName::MAIN);
        requests.expect(&id("q"), 0);
        assert!(ended(&mut answers));
    }

    #[test]
    fn acknowledgements_may_arrive_before_the_number_of_clients() {
        let mut requests = Requests::default();
        let q = id("q");
        let mut answers = requests.open(id("q"), NamespaceName::MAIN);
        requests.expect(&q, 1);
        assert_eq!(requests.answer(&q, None, ack()), Ok(()));
        assert!(!ended(&mut answers));
        assert_eq!(requests.answer(&q, None, Answer::Clients(2)), Ok(()));
        assert!(!ended(&mut answers));
        assert_eq!(requests.answer(&q, None, ack()), Ok(()));
        assert!(ended(&mut answers));
    }

    #[test]
    fn a_server_that_dies_is_not_waited_for() {
        let mut requests = Requests::default();
        let q = id("q");
        let mut answers = requests.open(id("q"), NamespaceName::MAIN);
        let main = NamespaceName::MAIN;
        requests.expect(&q, 2);
        let _ = requests.answer(&q, Some(&id("a")), sockets());
        let recount = requests.recount();
        assert!(recount.namespaces.contains(&main));
        assert!(recount.servers.contains(&(main.clone(), id("a"))));
        // A server that comes later was not asked.
        requests.recounted(&main, 5);
        assert!(!ended(&mut answers));
        requests.recounted(&main, 1);
        assert!(ended(&mut answers));
        assert_eq!(requests.recount(), Recount::default());
        assert_eq!(missing(&mut requests, &q), Some(0));
    }

    #[test]
    fn a_server_that_dies_after_its_answer_does_not_answer_for_another() {
        let mut requests = Requests::default();
        let q = id("q");
        let mut answers = requests.open(id("q"), NamespaceName::MAIN);
        let main = NamespaceName::MAIN;
        requests.expect(&q, 2);
        let _ = requests.answer(&q, Some(&id("a")), sockets());
        requests.died(&main, &id("a"));
        requests.recounted(&main, 1);
        assert!(!ended(&mut answers));
        let _ = requests.answer(&q, Some(&id("b")), sockets());
        assert!(ended(&mut answers));
        assert_eq!(missing(&mut requests, &q), Some(0));
    }

    #[test]
    fn the_clients_of_a_server_that_has_died_are_not_waited_for() {
        let mut requests = Requests::default();
        let main = NamespaceName::MAIN;
        let (a, b) = (id("a"), id("b"));
        for (a, b) in [(Some(&a), Some(&b)), (None, None)] {
            let q = id("q");
            let mut answers = requests.open(id("q"), NamespaceName::MAIN);
            requests.expect(&q, 2);
            let _ = requests.answer(&q, a, Answer::Clients(2));
            let _ = requests.answer(&q, b, Answer::Clients(0));
            let _ = requests.answer(&q, a, ack());
            assert!(!ended(&mut answers));
            if let Some(a) = a {
                requests.died(&main, a);
                assert!(ended(&mut answers));
            }
            requests.recounted(&main, 1);
            // The server that is left, and may be another, has time to answer.
            assert_eq!(ended(&mut answers), a.is_some());
            requests.recounted(&main, 1);
            assert!(ended(&mut answers));
            assert_eq!(missing(&mut requests, &q), Some(0));
        }
    }

    #[test]
    fn a_client_that_leaves_is_not_waited_for() {
        let mut requests = Requests::default();
        let q = id("q");
        let mut answers = requests.open(id("q"), NamespaceName::MAIN);
        requests.expect(&q, 1);
        let a = id("a");
        let _ = requests.answer(&q, Some(&a), Answer::Clients(2));
        let _ = requests.answer(&q, Some(&a), ack());
        assert!(!ended(&mut answers));
        assert_eq!(requests.answer(&q, Some(&a), Answer::Left), Ok(()));
        assert!(ended(&mut answers));
    }

    #[test]
    fn a_second_answer_of_a_server_and_one_to_nobody_are_unexpected() {
        let mut requests = Requests::default();
        let q = id("q");
        let _answers = requests.open(id("q"), NamespaceName::MAIN);
        requests.expect(&q, 2);
        let a = id("a");
        assert_eq!(requests.answer(&q, Some(&a), sockets()), Ok(()));
        assert_eq!(requests.answer(&q, Some(&a), sockets()), Err(Unexpected));
        assert_eq!(requests.answer(&id("r"), None, sockets()), Err(Unexpected));
        assert_eq!(missing(&mut requests, &q), Some(1));
        assert_eq!(requests.answer(&q, None, sockets()), Err(Unexpected));
    }

    #[test]
    fn a_question_that_was_not_sent_has_an_unknown_number_of_servers() {
        let mut requests = Requests::default();
        let q = id("q");
        let mut answers = requests.open(id("q"), NamespaceName::MAIN);
        requests.fail(&q);
        assert!(ended(&mut answers));
        assert_eq!(missing(&mut requests, &q), None);
    }

    #[test]
    fn questions_that_have_ended_return_their_memory() {
        let mut requests = Requests::default();
        let ids: Vec<_> = (0..1_000).map(|n| id(&n.to_string())).collect();
        for id in &ids {
            drop(requests.open(RequestId::clone(id), NamespaceName::MAIN));
        }
        for id in &ids {
            assert!(requests.end(id).is_some());
        }
        assert!(is_shrunk(&requests.open));
    }
}
