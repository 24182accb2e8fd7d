// Command connect runs a command in a pod and forwards a port of it by an unmodified client-go, straight at a kubelet's own
// port: what kubectl exec and kubectl port-forward do, without the API server between.
//
// It takes KUBECONFIG SERVER NAMESPACE/POD/CONTAINER PORT COMMAND... and writes one Connection in JSON a line: the command
// by each way that client-go has, with a line on its stdin, then a GET to the pod's port through a forwarded one.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
)

// connectionLimit bounds each connection: it only turns a hang into an error.
const connectionLimit = 20 * time.Second

// Connection is what came of one way to connect into a pod.
type Connection struct {
	Is string `json:"is"`
	// Way is spdy, websocket, kubectl (websocket, and spdy where that is refused, as kubectl does it) or portforward.
	Way string `json:"way"`
	// Output is what the command wrote, or what the port answered.
	Output string `json:"output"`
	// Error is empty if all went well.
	Error string `json:"error"`
}

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "connect:", err)
		os.Exit(1)
	}
}

func run(arguments []string, out io.Writer) error {
	if len(arguments) < 5 {
		return fmt.Errorf("usage: connect KUBECONFIG SERVER NAMESPACE/POD/CONTAINER PORT COMMAND...")
	}
	config, err := clientcmd.BuildConfigFromFlags(arguments[1], arguments[0])
	if err != nil {
		return err
	}
	server, err := url.Parse(arguments[1])
	if err != nil {
		return err
	}
	target := arguments[2]
	pod := target[:strings.LastIndex(target, "/")]
	encoder := json.NewEncoder(out)
	for _, way := range []string{"spdy", "websocket", "kubectl"} {
		output, err := execute(config, way, server.JoinPath("exec", target), arguments[4:])
		if err := encoder.Encode(told(way, output, err)); err != nil {
			return err
		}
	}
	output, err := forward(config, server.JoinPath("portForward", pod), arguments[3])
	return encoder.Encode(told("portforward", output, err))
}

func told(way, output string, err error) Connection {
	connection := Connection{Is: "connection", Way: way, Output: output}
	if err != nil {
		connection.Error = err.Error()
	}
	return connection
}

// execute runs command by one way. The parameters are the kubelet's, which are not those of the API server.
func execute(config *rest.Config, way string, target *url.URL, command []string) (string, error) {
	target.RawQuery = url.Values{"command": command, "input": {"1"}, "output": {"1"}, "error": {"1"}}.Encode()
	executor, err := executorOf(config, way, target)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), connectionLimit)
	defer cancel()
	var stdout, stderr bytes.Buffer
	options := remotecommand.StreamOptions{Stdin: strings.NewReader("a line\n"), Stdout: &stdout, Stderr: &stderr}
	if err := executor.StreamWithContext(ctx, options); err != nil {
		return stdout.String(), fmt.Errorf("%w %s", err, stderr.String())
	}
	return stdout.String(), nil
}

func executorOf(config *rest.Config, way string, target *url.URL) (remotecommand.Executor, error) {
	bySpdy, err := remotecommand.NewSPDYExecutor(config, http.MethodPost, target)
	if err != nil || way == "spdy" {
		return bySpdy, err
	}
	byWebsocket, err := remotecommand.NewWebSocketExecutor(config, http.MethodGet, target.String())
	if err != nil || way == "websocket" {
		return byWebsocket, err
	}
	return remotecommand.NewFallbackExecutor(byWebsocket, bySpdy, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
}

// forward opens a local port to the pod's and sends a GET through it.
func forward(config *rest.Config, target *url.URL, port string) (string, error) {
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return "", err
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, target)
	stop, ready := make(chan struct{}), make(chan struct{})
	defer close(stop)
	forwarder, err := portforward.New(dialer, []string{"0:" + port}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		return "", err
	}
	failed := make(chan error, 1)
	go func() { failed <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-failed:
		return "", err
	case <-time.After(connectionLimit):
		return "", fmt.Errorf("no forwarded port within %s", connectionLimit)
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		return "", err
	}
	client := http.Client{Timeout: connectionLimit}
	answer, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", ports[0].Local))
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return string(body), err
}
