//! The clients of one place. One client after the other connects, talks and ends, in one of several
//! ways.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::connection::{Http, Message, Result, WebSocket};
use crate::talk::{Talk, from_body, to_body};
use crate::tally::{TOTALS, unexpected};

/// The longest wait for a step that normally takes a moment.
const PATIENCE: Duration = Duration::from_secs(60);
/// The upgrade timeout of the server.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);
const ROOMS: u64 = 500;
/// The number of events after which a client asks for the numbers of the server.
const SYNC_EVERY: u64 = 6;

/// The properties that the clients of a place share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Role {
    pub(crate) addr: SocketAddr,
    pub(crate) place: u64,
    pub(crate) transport: Transport,
    pub(crate) has_second_namespace: bool,
    pub(crate) is_binary: bool,
    /// Whether a client that loses its connection comes back, and is recovered.
    pub(crate) comes_back: bool,
    /// The time from one event to the next one.
    pub(crate) every: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    WebSocket,
    /// Long-polling, then an upgrade to WebSocket.
    Upgraded,
    Polling,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    /// Move to another room.
    Move,
    /// End, so that the next client takes the place, or lose the connection and come back.
    End,
    /// Disconnect, without a next client.
    Finish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Clean,
    /// A reset of the connection. Over long-polling an aborted poll.
    Reset,
    /// The connection is lost, and the client comes back.
    Lost,
    Finish,
}

/// Runs one client after the other until the order to finish.
pub(crate) async fn play(role: Role, mut orders: Receiver<Order>) {
    let mut chance = Chance(role.place.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut client = Client::new(role, &mut chance);
    loop {
        TOTALS.opened.add(1);
        let ended = client.connect_and_talk(&mut orders).await;
        if client.is_counted {
            TOTALS.connected.subtract(1);
            client.is_counted = false;
        }
        match ended {
            Ok(Ending::Finish) => return,
            Ok(Ending::Lost) => {
                client.talks.iter_mut().for_each(Talk::lost);
                sleep(Duration::from_millis(chance.below(3_000))).await;
                client.ending = None;
                continue;
            }
            Ok(_) => {}
            Err(_) if client.is_late_with_upgrade() => TOTALS.too_late.add(1),
            Err(error) => {
                unexpected(&format!("{:?} {}: {error}", role.transport, role.place));
                if matches!(client.ending, Some(Ending::Finish)) {
                    return;
                }
                sleep(Duration::from_secs(1)).await;
            }
        }
        client = Client::new(role, &mut chance);
    }
}

/// A pseudorandom generator. Its numbers are the same in each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

struct Client {
    role: Role,
    talks: Vec<Talk>,
    /// A packet whose attachment has not arrived: the index of its namespace, its type, and the
    /// rest.
    header: Option<(usize, u8, String)>,
    pongs: Vec<Message>,
    ending: Option<Ending>,
    is_counted: bool,
    chance: Chance,
    spoken: u64,
    next: Instant,
    /// When all namespaces last had the numbers of the server.
    synced_at: Instant,
    /// When the upgrade began. `None` from the first message over the WebSocket.
    upgrading: Option<Instant>,
}

impl Client {
    fn new(role: Role, chance: &mut Chance) -> Self {
        let mut talks = vec![Talk::new("", role.is_binary)];
        if role.has_second_namespace {
            talks.push(Talk::new("/second,", !role.is_binary));
        }
        let now = Instant::now();
        let first = chance.below(role.every.as_millis() as u64);
        Self {
            role,
            talks,
            header: None,
            pongs: Vec::new(),
            ending: None,
            is_counted: false,
            chance: Chance(chance.below(u64::MAX) | 1),
            spoken: 0,
            next: now + Duration::from_millis(first),
            synced_at: now,
            upgrading: None,
        }
    }

    /// Returns whether the upgrade has taken so long that the server may have aborted it.
    fn is_late_with_upgrade(&self) -> bool {
        let began = self.upgrading;
        began.is_some_and(|began| began.elapsed() >= UPGRADE_TIMEOUT)
    }

    fn is_synced(&self) -> bool {
        self.talks.iter().all(Talk::is_synced)
    }

    fn drain(&mut self) -> Vec<Message> {
        let talks = self.talks.iter_mut().flat_map(Talk::drain);
        self.pongs.drain(..).chain(talks).collect()
    }

    async fn connect_and_talk(&mut self, orders: &mut Receiver<Order>) -> Result<Ending> {
        self.header = None;
        self.upgrading = None;
        self.synced_at = Instant::now();
        self.talks.iter_mut().for_each(Talk::connect);
        let addr = self.role.addr;
        let websocket = if self.role.transport == Transport::WebSocket {
            soon(WebSocket::open_session(addr)).await?
        } else {
            let polling = soon(Polling::open(addr)).await?;
            match self.over_polling(polling, orders).await? {
                Left::Ended(ending) => return Ok(ending),
                Left::Upgraded(websocket) => websocket,
            }
        };
        self.over_websocket(websocket, orders).await
    }

    async fn over_websocket(
        &mut self,
        mut websocket: WebSocket,
        orders: &mut Receiver<Order>,
    ) -> Result<Ending> {
        loop {
            let out = self.drain();
            if !out.is_empty() {
                websocket.send(out).await?;
            }
            if let Some(ending) = self.ending_now() {
                self.end_websocket(websocket, ending).await?;
                return Ok(ending);
            }
            tokio::select! {
                message = websocket.next() => {
                    self.handle(message?)?;
                    self.upgrading = None;
                    while let Some(message) = websocket.parse()? {
                        self.handle(message)?;
                    }
                }
                () = sleep_until(self.next) => self.speak()?,
                Some(order) = orders.recv() => self.follow(order),
            }
        }
    }

    async fn end_websocket(&mut self, mut websocket: WebSocket, ending: Ending) -> Result<()> {
        match ending {
            Ending::Clean | Ending::Finish => {
                self.talks.iter_mut().for_each(Talk::leave);
                websocket.send(self.drain()).await?;
                soon(websocket.close()).await?;
                TOTALS.left_cleanly.add(1);
            }
            Ending::Lost if self.chance.below(2) == 0 => drop(websocket),
            Ending::Lost | Ending::Reset => {
                websocket.reset();
                TOTALS.reset.add(1);
            }
        }
        Ok(())
    }

    async fn over_polling(
        &mut self,
        mut polling: Polling,
        orders: &mut Receiver<Order>,
    ) -> Result<Left> {
        let mut upgrade_at = Instant::now() + Duration::from_millis(self.chance.below(3_000));
        if self.role.transport == Transport::Polling {
            upgrade_at += Duration::from_secs(365 * 24 * 60 * 60);
        }
        loop {
            if polling.is_over() {
                return Ok(Left::Upgraded(polling.upgrade(self.drain()).await?));
            }
            polling.request(|| self.drain()).await?;
            if let Some(ending) = self.ending_now() {
                self.end_polling(polling, ending).await?;
                return Ok(Left::Ended(ending));
            }
            tokio::select! {
                messages = polling.next() => {
                    for message in messages? {
                        self.handle(message)?;
                    }
                }
                () = sleep_until(upgrade_at), if polling.probe.is_none() => {
                    self.upgrading = Some(Instant::now());
                    polling.start_probe(self.role.addr).await?;
                }
                () = sleep_until(self.next) => self.speak()?,
                Some(order) = orders.recv() => self.follow(order),
            }
        }
    }

    async fn end_polling(&mut self, polling: Polling, ending: Ending) -> Result<()> {
        match ending {
            Ending::Clean | Ending::Finish => {
                self.talks.iter_mut().for_each(Talk::leave);
                let mut last = self.drain();
                last.push(Message::Text("1".to_owned()));
                soon(polling.close(last)).await?;
                TOTALS.left_cleanly.add(1);
            }
            Ending::Lost | Ending::Reset => {
                TOTALS.polls_aborted.add(1);
                if self.chance.below(2) == 0 {
                    polling.get.reset();
                    polling.post.reset();
                }
            }
        }
        Ok(())
    }

    /// Returns the ending that was ordered, as soon as the client is synced.
    fn ending_now(&self) -> Option<Ending> {
        self.ending.filter(|_| self.is_synced())
    }

    fn follow(&mut self, order: Order) {
        let ending = match order {
            Order::Move => {
                let room = self.chance.below(ROOMS);
                self.talks.iter_mut().for_each(|talk| talk.enter(room));
                return;
            }
            Order::Finish => Ending::Finish,
            Order::End if !self.is_counted => return,
            Order::End if self.role.comes_back => Ending::Lost,
            Order::End if self.chance.below(2) == 0 => Ending::Clean,
            Order::End => Ending::Reset,
        };
        self.ending = Some(ending);
        if self.is_counted && matches!(ending, Ending::Clean | Ending::Finish) {
            self.talks.iter_mut().for_each(Talk::sync);
        }
    }

    fn speak(&mut self) -> Result<()> {
        self.next += self.role.every;
        if !self.is_synced() {
            if self.synced_at.elapsed() > PATIENCE {
                return Err(format!("no answer from the server: {:?}", self.talks));
            }
            return Ok(());
        }
        self.synced_at = Instant::now();
        self.spoken += 1;
        let talks = self.talks.len() as u64;
        self.talks[(self.spoken % talks) as usize].say();
        if self.spoken % SYNC_EVERY == 0 {
            self.talks.iter_mut().for_each(Talk::sync);
        }
        Ok(())
    }

    /// Handles an Engine.IO message.
    fn handle(&mut self, message: Message) -> Result<()> {
        let text = match message {
            Message::Binary(data) => {
                let header = self.header.take();
                let (talk, kind, rest) = header.ok_or("an attachment without its packet")?;
                return self.talks[talk].handle(kind, &rest, Some(&data));
            }
            Message::Text(text) if self.header.is_none() => text,
            Message::Text(text) => return Err(format!("in place of an attachment: {text}")),
        };
        match text.split_at_checked(1) {
            Some(("4", packet)) => self.packet(packet)?,
            Some(("2", "")) => self.pongs.push(Message::Text("3".to_owned())),
            Some(("6", "")) => {}
            _ => return Err(format!("another packet: {text}")),
        }
        Ok(())
    }

    fn packet(&mut self, packet: &str) -> Result<()> {
        let kind = *packet.as_bytes().first().ok_or("an empty packet")?;
        let mut rest = &packet[1..];
        let is_binary = matches!(kind, b'5' | b'6');
        if is_binary {
            rest = rest.strip_prefix("1-").ok_or("other than one attachment")?;
        }
        let mut talk = 0;
        if let Some(behind) = rest.strip_prefix("/second,") {
            (talk, rest) = (1, behind);
        }
        if is_binary {
            self.header = Some((talk, kind, rest.to_owned()));
            return Ok(());
        }
        self.talks[talk].handle(kind, rest, None)?;
        if !self.is_counted && self.is_synced() {
            self.is_counted = true;
            TOTALS.connected.add(1);
            let room = self.chance.below(ROOMS);
            self.talks
                .iter_mut()
                .for_each(|talk| talk.enter_first(room));
        }
        Ok(())
    }
}

/// Waits for a step that normally takes a moment.
async fn soon<T>(what: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(PATIENCE, what)
        .await
        .map_err(|_| "it took a minute")?
}

/// How a client has stopped polling.
enum Left {
    Ended(Ending),
    Upgraded(WebSocket),
}

/// A session over long-polling, and the WebSocket that will replace it.
struct Polling {
    session: String,
    get: Http,
    post: Http,
    probe: Option<WebSocket>,
    /// Whether the server has answered the probe. No request begins after that.
    is_probed: bool,
}

impl Polling {
    async fn open(addr: SocketAddr) -> Result<Self> {
        let mut get = Http::connect(addr).await?;
        get.get("").await?;
        let open = get.response().await?;
        let id = open.strip_prefix("0{\"sid\":\"");
        let id = id.and_then(|open| open.split('"').next());
        let id = id.ok_or_else(|| format!("no session: {open}"))?;
        Ok(Self {
            session: format!("&sid={id}"),
            get,
            post: Http::connect(addr).await?,
            probe: None,
            is_probed: false,
        })
    }

    async fn start_probe(&mut self, addr: SocketAddr) -> Result<()> {
        let mut probe = WebSocket::open(addr, &self.session).await?;
        probe.send([Message::Text("2probe".to_owned())]).await?;
        self.probe = Some(probe);
        Ok(())
    }

    /// Sends a GET and a POST, unless one of that method is under way. A POST needs messages.
    async fn request(&mut self, drain: impl FnOnce() -> Vec<Message>) -> Result<()> {
        if self.is_probed {
            return Ok(());
        }
        if !self.get.is_busy {
            self.get.get(&self.session).await?;
        }
        if !self.post.is_busy {
            let out = drain();
            if !out.is_empty() {
                self.post.post(&self.session, &to_body(out)).await?;
            }
        }
        Ok(())
    }

    /// Waits for messages or for the end of a request. Cancel safe.
    async fn next(&mut self) -> Result<Vec<Message>> {
        let probe = async {
            match &mut self.probe {
                Some(probe) if !self.is_probed => probe.next().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            body = self.get.response(), if self.get.is_busy => from_body(&body?),
            body = self.post.response(), if self.post.is_busy => match &*body? {
                "ok" => Ok(Vec::new()),
                other => Err(format!("the answer to a POST is {other}")),
            },
            answer = probe => match answer? {
                Message::Text(answer) if answer == "3probe" => {
                    self.is_probed = true;
                    Ok(Vec::new())
                }
                other => Err(format!("the answer to a probe is {other:?}")),
            },
        }
    }

    /// Returns whether polling has ended and the WebSocket can take over.
    fn is_over(&self) -> bool {
        self.is_probed && !self.get.is_busy && !self.post.is_busy
    }

    async fn upgrade(self, out: Vec<Message>) -> Result<WebSocket> {
        let mut websocket = self.probe.ok_or("no probe")?;
        let upgrade = [Message::Text("5".to_owned())];
        websocket.send(upgrade.into_iter().chain(out)).await?;
        TOTALS.upgraded.add(1);
        Ok(websocket)
    }

    /// Posts the last messages, and waits until both requests are answered.
    async fn close(mut self, last: Vec<Message>) -> Result<()> {
        while self.post.is_busy {
            if self.post.response().await? != "ok" {
                return Err("a POST is not accepted".to_owned());
            }
        }
        self.post.post(&self.session, &to_body(last)).await?;
        if self.post.response().await? != "ok" {
            return Err("the last POST is not accepted".to_owned());
        }
        if self.get.is_busy {
            self.get.response().await?;
        }
        Ok(())
    }
}
