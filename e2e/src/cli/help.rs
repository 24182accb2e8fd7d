//! The longer texts of `--help`: what a command is about, and examples.

pub(super) const DEMO_ABOUT: &str = "\
Three nodes live through a cut, and the bill for it.

A model of the cloud, a real edge-hub process per node and a kubelet and two agents behind each, all on loopback: \
they sync, watches break, every link is cut, a hub and a node's clients restart while cut, objects change in the \
cloud, the links heal. At the same time the same clients go through the same schedule without hubs, against a second \
model. They ask, retry and wait as client-go does. Then both are counted, and everything that a client was shown is \
held against the history of the model. While cut off a hub serves reads from its store, takes the node's own Lease and \
Events to send them later, and refuses reports of status, because nobody in the cloud has seen them.

Progress goes to stderr, the table or JSON to stdout. Exit status: 0 without violations, 1 with some, 130 when \
interrupted. However it is ended, it leaves no process and no file.";

pub(super) const DEMO_JSON: &str = "\
JSON:
  seed, nodes, seconds      what was asked for
  verdict                   ok, or violated
  violations[]              each in words
  schedule[]                {atMs, do, ...}: what happened when; nodes are counted from 0
  withHubs, withoutHubs     the bill of each:
    nodes[]                 {name, online, offline, failures, events, clientLists,
                            relistsAfterHealing, caughtUpMs, ownEventsTakenOffline}
      online, offline       {served, failed}: requests of the node's clients; offline: within the cut
      failures              failed requests by when, what and why: how often
      events                watch events that brought a client an object
      clientLists           collections that clients were given whole
      relistsAfterHealing   collections that the cloud sent whole after the link came back
      caughtUpMs            from then until every copy was the cloud's state and all that had been
                            promised to the node was in the cloud; null if never
      ownEventsTakenOffline Events of the node that were confirmed to it while it was cut off
    bodyBytes               bodies of requests and answers by class, counted in the model cloud
    wireBytes               all that passed the cloud's sockets, TLS included, both ways
    requestsAtCloud         requests that reached the cloud
    brokenWatches           running watches that the schedule broke
    delayOnlineMs           {events, median, longest}: from a change to a client's copy, not cut
    readsOffline            {reads, behind, longestMs}: answers to GET of the own Node while cut,
                            those that the cloud had changed meanwhile, and the longest time since";

pub(super) const LAB_ABOUT: &str = "\
A real Kubernetes whose nodes can be cut off, on this machine.

An unmodified etcd, kube-apiserver, kube-controller-manager and kube-scheduler run in one network namespace, the cloud. \
Each node is a network namespace of its own with one link to the cloud and an edge-hub, and everything on the node \
talks to that hub at 127.0.0.1:10261. Cut the link and see who notices.

Needs root, iproute2, nftables and util-linux; and Go 1.26 once, to build the Kubernetes binaries (6 minutes). Several \
labs may stand side by side, each in its own folder.";

pub(super) const LAB_EXAMPLE: &str = "\
Example:
  export LAB=/tmp/lab
  eyot lab up --nodes 2 --without kubelet --dir $LAB
  eyot lab exec node-1 --dir $LAB -- \\
    kubectl --kubeconfig $LAB/nodes/node-1/kubelet.kubeconfig get node node-1 -w &
  eyot lab cut node-1 --dir $LAB          # the watch goes on
  eyot lab restart node-1 hub --dir $LAB  # new reads come from the hub's store
  eyot lab heal --dir $LAB
  eyot lab down --dir $LAB

Files of a lab:
  DIR/admin.kubeconfig   the administrator, straight to the API server, from here
  DIR/nodes/NAME/        through the hub of NAME, inside its namespace only:
    kubelet.kubeconfig     the node's certificate (system:node:NAME)
    pod.kubeconfig         the ServiceAccount token of an ordinary pod on NAME
    admin.kubeconfig       a cluster-admin ServiceAccount's token, good while cut
  DIR/bin/               every binary of the lab
  DIR/logs/              one log per process; they outlive the lab";

pub(super) const SLOW_EXAMPLE: &str = "\
Example: a satellite link, whose packets also come out of order
  eyot lab slow node-1 --rate 1mbit --delay 300ms --jitter 50ms --dir $LAB
  eyot lab heal node-1 --dir $LAB

A process of the lab decides when each packet goes on, up to 16384 at a time; more pass at once. Should it be killed, \
what was under way is lost and later packets pass at once. ARP and neighbour discovery are never delayed. Needs \
iptables.";
