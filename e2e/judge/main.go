// Command judge holds informers of an unmodified client-go on a list of collections and says what they hold. It is
// built against several versions of client-go, so that each of them judges what stands between it and the API server.
//
// The first line of stdin is a Config in JSON. After it, stdin takes one command a line: "dump" writes what every
// cache holds, "stop" (or the end of stdin) ends the program with status 0. stdout carries JSON lines only: one Report
// for each cache when it has synced and after each event that follows, and one Dump for each cache of a "dump".
// Everything that client-go complains about goes to stderr; a panic of its inconsistency detector ends the program.
//
// WatchList and the detector are switched as in any client-go program: KUBE_FEATURE_WatchListClient and
// KUBE_WATCHLIST_INCONSISTENCY_DETECTOR.
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sort"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// Config says what to hold and as whom.
type Config struct {
	// Clients are the kinds of client that hold every collection: typed-protobuf, typed-json, dynamic, metadata.
	Clients []string `json:"clients"`
	// UserAgent is what the API server's audit log knows this program by; the kind of client is added to it.
	UserAgent string `json:"userAgent"`
	// Collections are held once by each kind of client.
	Collections []Collection `json:"collections"`
}

// Collection is one resource as one principal may see it.
type Collection struct {
	// Name tells it from the others in the reports.
	Name string `json:"name"`
	// Kubeconfig is the file that names server and principal.
	Kubeconfig string `json:"kubeconfig"`
	Group      string `json:"group"`
	Version    string `json:"version"`
	Resource   string `json:"resource"`
	// Namespace is empty for all namespaces and for what has none.
	Namespace     string `json:"namespace"`
	FieldSelector string `json:"fieldSelector"`
	LabelSelector string `json:"labelSelector"`
	// WithoutVersions leaves the objects' resourceVersion out of what is told: a hub that shows endpoints which the
	// cloud does not know yet counts by its own versions.
	WithoutVersions bool `json:"withoutVersions"`
}

// Report is the state of one cache: when it has synced, and after each later event.
type Report struct {
	Is         string `json:"is"`
	Client     string `json:"client"`
	Collection string `json:"collection"`
	// Digest is the same for two caches of the same kind of client and version of client-go if, and with certainty for
	// all practical purposes only if, they hold the same objects down to the last field that the client knows.
	Digest  string `json:"digest"`
	Objects int    `json:"objects"`
	Added   int    `json:"added"`
	Updated int    `json:"updated"`
	Deleted int    `json:"deleted"`
}

// Dump is what one cache holds. Both readings of it are given: the store, and the sum of all events.
type Dump struct {
	Is         string   `json:"is"`
	Client     string   `json:"client"`
	Collection string   `json:"collection"`
	Digest     string   `json:"digest"`
	Store      []Object `json:"store"`
	Events     []Object `json:"events"`
}

// Object is the identity and state of one object.
type Object struct {
	Key             string `json:"key"`
	UID             string `json:"uid"`
	ResourceVersion string `json:"resourceVersion"`
	// Content is the SHA-256 of the object's fields.
	Content string `json:"content"`
}

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "judge:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	if !lines.Scan() {
		return fmt.Errorf("no configuration on stdin: %v", lines.Err())
	}
	var config Config
	if err := json.Unmarshal(lines.Bytes(), &config); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	speaker := &speaker{encoder: json.NewEncoder(out)}
	var held []*holding
	for _, client := range config.Clients {
		for _, collection := range config.Collections {
			one, err := hold(ctx, config.UserAgent, client, collection, speaker)
			if err != nil {
				return fmt.Errorf("%s of %s: %w", client, collection.Name, err)
			}
			held = append(held, one)
		}
	}
	for lines.Scan() {
		switch command := lines.Text(); command {
		case "dump":
			for _, one := range held {
				speaker.say(one.dump())
			}
		case "stop":
			return nil
		default:
			return fmt.Errorf("unknown command %q", command)
		}
	}
	return lines.Err()
}

// speaker writes whole lines from many goroutines.
type speaker struct {
	mutex   sync.Mutex
	encoder *json.Encoder
}

func (s *speaker) say(line any) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if err := s.encoder.Encode(line); err != nil {
		// Whoever asked has gone, so nobody needs an answer any more.
		os.Exit(2)
	}
}

// holding is one informer and the sum of all events that its handler was told.
type holding struct {
	client     string
	collection Collection
	informer   cache.SharedIndexInformer
	speaker    *speaker

	mutex  sync.Mutex
	synced bool
	events map[string]Object
	// digest is the exclusive or of the objects' hashes, so that an event costs the same whatever the cache holds.
	digest                  [sha256.Size]byte
	added, updated, deleted int
}

// hold starts an informer; its first report comes when it has synced.
func hold(ctx context.Context, agent, client string, collection Collection, speaker *speaker) (*holding, error) {
	config, err := clientcmd.BuildConfigFromFlags("", collection.Kubeconfig)
	if err != nil {
		return nil, err
	}
	config.UserAgent = agent + "-" + client
	informer, err := newInformer(config, client, collection)
	if err != nil {
		return nil, err
	}
	one := &holding{
		client:     client,
		collection: collection,
		informer:   informer,
		speaker:    speaker,
		events:     map[string]Object{},
	}
	handler, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(added any) { one.take(added, &one.added) },
		UpdateFunc: func(_, updated any) { one.take(updated, &one.updated) },
		DeleteFunc: func(deleted any) { one.drop(deleted) },
	})
	if err != nil {
		return nil, err
	}
	go informer.Run(ctx.Done())
	go func() {
		if cache.WaitForCacheSync(ctx.Done(), handler.HasSynced) {
			one.mutex.Lock()
			defer one.mutex.Unlock()
			one.synced = true
			one.report()
		}
	}()
	return one, nil
}

// newInformer makes the informer that a program with this kind of client would have made.
func newInformer(config *rest.Config, client string, of Collection) (cache.SharedIndexInformer, error) {
	resource := schema.GroupVersionResource{Group: of.Group, Version: of.Version, Resource: of.Resource}
	narrow := func(options *metav1.ListOptions) {
		options.FieldSelector = of.FieldSelector
		options.LabelSelector = of.LabelSelector
	}
	switch client {
	case "typed-protobuf":
		config.ContentType = "application/vnd.kubernetes.protobuf"
		config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
		return typedInformer(config, resource, of.Namespace, narrow)
	case "typed-json":
		config.ContentType = "application/json"
		config.AcceptContentTypes = "application/json"
		return typedInformer(config, resource, of.Namespace, narrow)
	case "dynamic":
		made, err := dynamic.NewForConfig(config)
		if err != nil {
			return nil, err
		}
		return dynamicinformer.NewFilteredDynamicInformer(
			made, resource, of.Namespace, 0, cache.Indexers{}, narrow).Informer(), nil
	case "metadata":
		made, err := metadata.NewForConfig(config)
		if err != nil {
			return nil, err
		}
		return metadatainformer.NewFilteredMetadataInformer(
			made, resource, of.Namespace, 0, cache.Indexers{}, narrow).Informer(), nil
	default:
		return nil, fmt.Errorf("no such kind of client")
	}
}

func typedInformer(
	config *rest.Config,
	resource schema.GroupVersionResource,
	namespace string,
	narrow func(*metav1.ListOptions),
) (cache.SharedIndexInformer, error) {
	clientset, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	factory := informers.NewSharedInformerFactoryWithOptions(
		clientset, 0, informers.WithNamespace(namespace), informers.WithTweakListOptions(narrow))
	informer, err := factory.ForResource(resource)
	if err != nil {
		return nil, err
	}
	return informer.Informer(), nil
}

func (h *holding) take(object any, count *int) {
	state := h.stateOf(object)
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.mix(h.events[state.Key])
	h.mix(state)
	h.events[state.Key] = state
	*count++
	h.report()
}

func (h *holding) drop(object any) {
	if unknown, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = unknown.Obj
	}
	key := h.stateOf(object).Key
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.mix(h.events[key])
	delete(h.events, key)
	h.deleted++
	h.report()
}

// mix adds an object to the digest or, the second time, takes it out again. The zero Object is none.
func (h *holding) mix(object Object) {
	if object == (Object{}) {
		return
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", object))
	for at := range h.digest {
		h.digest[at] ^= sum[at]
	}
}

// report tells the state once it is worth something; the caller holds the mutex.
func (h *holding) report() {
	if !h.synced {
		return
	}
	h.speaker.say(Report{
		Is:         "state",
		Client:     h.client,
		Collection: h.collection.Name,
		Digest:     hex.EncodeToString(h.digest[:]),
		Objects:    len(h.events),
		Added:      h.added,
		Updated:    h.updated,
		Deleted:    h.deleted,
	})
}

func (h *holding) dump() Dump {
	var store []Object
	for _, object := range h.informer.GetStore().List() {
		store = append(store, h.stateOf(object))
	}
	h.mutex.Lock()
	defer h.mutex.Unlock()
	var events []Object
	for _, object := range h.events {
		events = append(events, object)
	}
	return Dump{
		Is:         "dump",
		Client:     h.client,
		Collection: h.collection.Name,
		Digest:     hex.EncodeToString(h.digest[:]),
		Store:      sorted(store),
		Events:     sorted(events),
	}
}

func sorted(objects []Object) []Object {
	sort.Slice(objects, func(a, b int) bool { return objects[a].Key < objects[b].Key })
	return objects
}

// stateOf reads what an informer hands out. What it cannot read is a fault of this program, not of what it judges.
func (h *holding) stateOf(object any) Object {
	if h.collection.WithoutVersions {
		// What an informer hands out is everybody's; a copy may be changed.
		own := object.(runtime.Object).DeepCopyObject()
		own.(metav1.Object).SetResourceVersion("")
		object = own
	}
	accessor, err := meta.Accessor(object)
	if err != nil {
		panic(err)
	}
	key, err := cache.MetaNamespaceKeyFunc(object)
	if err != nil {
		panic(err)
	}
	content, err := json.Marshal(object)
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(content)
	return Object{
		Key:             key,
		UID:             string(accessor.GetUID()),
		ResourceVersion: accessor.GetResourceVersion(),
		Content:         hex.EncodeToString(sum[:]),
	}
}
