//! The questions to other servers that are open: a pure data structure.

use std::collections::{HashMap, HashSet};

use tokio::sync::mpsc;

use super::message::{RequestId, ServerId};
use crate::hub::other_servers::Answer;
use crate::protocol::NamespaceName;

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
    /// The number of servers that have answered.
    answered: usize,
    /// The servers that have answered, as far as their ids are known.
    known: HashSet<ServerId>,
    /// The acknowledgements that are still to come. It is negative while a server has not said how
    /// many clients it has asked.
    acks: i64,
}

/// An answer that no question expects.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unexpected;

impl Requests {
    pub(super) fn len(&self) -> usize {
        self.open.len()
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
            known: HashSet::new(),
            acks: 0,
        };
        self.open.insert(id, request);
        receiver
    }

    /// Ends a question. Returns the number of servers that have not answered, or `None` if they
    /// were not counted.
    pub(super) fn end(&mut self, id: &RequestId) -> Option<usize> {
        let request = self.open.remove(id)?;
        Some(request.expected?.saturating_sub(request.answered))
    }

    /// Sets how many other servers there are. A later count can only lower the number: a server
    /// that has come since was not asked.
    pub(super) fn expect(&mut self, id: &RequestId, servers: usize) {
        if let Some(request) = self.open.get_mut(id) {
            let expected = request.expected.unwrap_or(servers);
            request.expected = Some(expected.min(servers));
            request.check();
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
        let is_ack = matches!(answer, Answer::Ack(..));
        if !is_ack && from.is_some_and(|from| !request.known.insert(ServerId::clone(from))) {
            return Err(Unexpected);
        }
        match answer {
            Answer::Clients(clients) => request.acks += clients as i64,
            Answer::Ack(..) => request.acks -= 1,
            Answer::Sockets(_) | Answer::Reply(_) => {}
            // This server asks no such question.
            Answer::Rooms(_) | Answer::Ids(_) | Answer::Done => return Err(Unexpected),
        }
        request.answered += usize::from(!is_ack);
        // An error means that the waiting task is gone.
        let _ = answers.send(answer);
        request.check();
        Ok(())
    }

    /// Returns the questions that wait for servers, and their namespaces.
    pub(super) fn waiting(&self) -> Vec<(RequestId, NamespaceName)> {
        let waiting = |request: &Request| {
            request.answers.is_some() && request.expected.is_some_and(|n| request.answered < n)
        };
        self.open
            .iter()
            .filter(|(_, request)| waiting(request))
            .map(|(id, request)| (RequestId::clone(id), request.namespace.clone()))
            .collect()
    }
}

impl Request {
    /// Ends the answers if all have arrived.
    fn check(&mut self) {
        let has_all = self
            .expected
            .is_some_and(|expected| self.answered >= expected);
        if has_all && self.acks <= 0 {
            self.answers = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Payload;

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
        assert_eq!(requests.end(&q), Some(0));
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
        requests.expect(&q, 2);
        let _ = requests.answer(&q, Some(&id("a")), sockets());
        assert_eq!(requests.waiting().len(), 1);
        requests.expect(&q, 1);
        assert!(ended(&mut answers));
        assert!(requests.waiting().is_empty());
        // A server that comes later was not asked.
        requests.expect(&q, 5);
        assert_eq!(requests.end(&q), Some(0));
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
        assert_eq!(requests.end(&q), Some(1));
        assert_eq!(requests.answer(&q, None, sockets()), Err(Unexpected));
    }

    #[test]
    fn a_question_that_was_not_sent_has_an_unknown_number_of_servers() {
        let mut requests = Requests::default();
        let q = id("q");
        let mut answers = requests.open(id("q"), NamespaceName::MAIN);
        requests.fail(&q);
        assert!(ended(&mut answers));
        assert_eq!(requests.end(&q), None);
    }
}
